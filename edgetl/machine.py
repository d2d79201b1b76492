"""What machine this is: processor, its features, memory, power mode, and a fingerprint."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

from edgetl.spec import Record

# Features that decide which precision is fast, by the names of /proc/cpuinfo.
FEATURES = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "asimdhp",
    "fphp",
    "i8mm",
    "bf16",
    "sve",
)


class Machine(Record, frozen=True, kw_only=True):
    """This machine, as far as it decides speed."""

    arch: str
    cpu: str
    cores: int
    features: tuple[str, ...]
    memory_gib: float
    system: str
    board: str
    fingerprint: str

    @property
    def vnni(self) -> bool:
        """Whether 8-bit dot products are native."""
        return bool({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"} & set(self.features))

    @property
    def bf16(self) -> bool:
        """Whether bfloat16 arithmetic is native."""
        return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(self.features))


@functools.lru_cache(maxsize=1)
def this_machine() -> Machine:
    """Describe this machine; the fingerprint changes with processor, features or core count."""
    arch = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    info = _cpuinfo()
    flags = set(info.get("flags", info.get("Features", "")).split())
    cpu = info.get("model name") or info.get("Model") or platform.processor() or arch
    features = tuple(name for name in FEATURES if name in flags)
    cores = available_cores()
    board = _board()
    text = "|".join([arch, cpu, ",".join(features), str(cores), board])
    return Machine(
        arch=arch,
        cpu=cpu,
        cores=cores,
        features=features,
        memory_gib=round(_memory_gib(), 1),
        system=f"{platform.system()} {platform.release()}",
        board=board,
        fingerprint=f"{cpu}, {cores} cores #{hashlib.sha256(text.encode()).hexdigest()[:12]}",
    )


def available_cores() -> int:
    """Cores that this process may use: affinity and the container's CPU quota count."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, max(1, round(int(quota[0]) / int(quota[1]))))
    return cores


def power_mode() -> str | None:
    """The mode that limits clocks: nvpmodel's on a Jetson, else the frequency governor; or None."""
    if Path("/etc/nv_tegra_release").exists():
        try:
            done = subprocess.run(
                ["nvpmodel", "-q"], capture_output=True, text=True, timeout=5, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        for line in done.stdout.splitlines():
            if line.startswith("NV Power Mode:"):
                return line.split(":", 1)[1].strip()
    return _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cpuinfo() -> dict[str, str]:
    info: dict[str, str] = {}
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        info.setdefault(key.strip(), value.strip())
    return info


def _board() -> str:
    return _read("/proc/device-tree/model").strip("\0 \n")


def _memory_gib() -> float:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) / 2**20
    return 0.0


def peak_rss_mib() -> float:
    """Highest resident memory of this process so far, in MiB."""
    # Linux's ru_maxrss survives exec: a process started by a large one would report that one's.
    for line in _read("/proc/self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**10
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def available_memory_mib(root: Path = Path("/")) -> float:
    """Memory that more processes may take, in MiB; infinite where nothing says."""
    for line in _read(str(root / "proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 2**10
    return math.inf
