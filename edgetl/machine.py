"""What machine this is: processor, its features, memory, power mode, and a fingerprint."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
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
# A control group's limit and usage in bytes, and what of its usage are files that it can let go:
# of version 2, and of version 1.
MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
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
    info = _facts("/proc/cpuinfo")
    flags = set(info.get("flags", info.get("Features", "")).split())
    cpu = info.get("model name") or info.get("Model") or platform.processor() or arch
    features = tuple(name for name in FEATURES if name in flags)
    cores = available_cores()
    board = _read("/proc/device-tree/model").strip("\0 \n")
    text = "|".join([arch, cpu, ",".join(features), str(cores), board])
    return Machine(
        arch=arch,
        cpu=cpu,
        cores=cores,
        features=features,
        memory_gib=round((_mib("/proc/meminfo", "MemTotal") or 0.0) / 2**10, 1),
        system=f"{platform.system()} {platform.release()}",
        board=board,
        fingerprint=f"{cpu}, {cores} cores #{hashlib.sha256(text.encode()).hexdigest()[:12]}",
    )


def available_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use, which every session and thread pool goes by.

    Affinity counts, and the CPU quotas of its control groups, rounded to whole cores. `root` is
    where /proc and the control groups are looked up.
    """
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return min([cores, *(max(1, round(quota)) for quota in _quotas(root))])


def _quotas(root: Path) -> Iterator[float]:
    """Cores that each control group of this process is limited to, where it is limited."""
    for group in _control_groups(root, "cpu"):
        both = _read(group / "cpu.max").split()  # version 2: "QUOTA PERIOD", in µs
        if len(both) != 2:
            both = [_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
        quota, period = both
        if quota.isdecimal() and period.isdecimal() and int(period):  # not "max", "-1" or ""
            yield int(quota) / int(period)


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the groups that may limit this process: a group's limit holds for those within."""
    for top, own in _hierarchies(root, controller):
        folder = top / own
        yield from [folder, *folder.parents][: len(Path(own).parts) + 1]


def _hierarchies(root: Path, controller: str) -> Iterator[tuple[Path, str]]:
    """Mounted hierarchies with this controller, and this process's group relative to each."""
    paths = {}  # by version
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controller in controllers.split(","):
            paths[1] = path
        elif (number, controllers) == ("0", ""):
            paths[2] = path
    for line in _read(root / "proc/self/mountinfo").splitlines():
        mount, _, system = line.partition(" - ")
        fields, kind = mount.split(), system.split(" ")  # type, source, options
        limits = kind[0] == "cgroup" and controller in kind[-1].split(",")
        if len(fields) < 5 or not (limits or kind[0] == "cgroup2"):
            continue
        shown, folder = (_unescaped(field) for field in fields[3:5])
        own = Path(paths.get(1 if limits else 2, shown))
        # A container's mount may show one group of the host's alone, which then is the nearest.
        near = own.is_relative_to(shown) and ".." not in own.parts
        yield root / folder.lstrip("/"), str(own.relative_to(shown)) if near else "."


def _unescaped(field: str) -> str:
    """A path of mountinfo, where blanks and backslashes are octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


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


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _facts(path: str | Path) -> dict[str, str]:
    """A file of lines as `key: value`; of a key that is there twice, the first."""
    lines = (line.partition(":") for line in reversed(_read(path).splitlines()))
    return {key.strip(): value.strip() for key, _, value in lines}


def _mib(path: str | Path, key: str) -> float | None:
    """A size that such a file states, as `16 kB`; None where it does not."""
    stated = _facts(path).get(key)
    return None if stated is None else int(stated.split()[0]) / 2**10


def peak_rss_mib() -> float:
    """Highest resident memory of this process so far, in MiB."""
    # Linux's ru_maxrss survives exec: a process started by a large one would report that one's.
    own = _mib("/proc/self/status", "VmHWM")
    if own is not None:
        return own
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def available_memory_mib(root: Path = Path("/")) -> float:
    """Memory that more processes may take, in MiB: the machine's, and its control groups'.

    Infinite where nothing says.
    """
    whole = _mib(root / "proc/meminfo", "MemAvailable")
    free = [math.inf if whole is None else whole]
    for group in _control_groups(root, "memory"):
        for limit, usage, cache in MEMORY_FILES:
            most, used = _read(group / limit).strip(), _read(group / usage).strip()
            if most.isdecimal() and used.isdecimal():  # not "max" or ""
                kept = dict(
                    line.split(" ", 1) for line in _read(group / "memory.stat").splitlines()
                )
                free.append((int(most) - int(used) + int(kept.get(cache, 0))) / 2**20)
    return max(0.0, min(free))
