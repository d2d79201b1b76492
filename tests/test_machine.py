"""What edgetl says of the machine that it runs on."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

import edgetl
from edgetl.machine import (
    FEATURES,
    Machine,
    available_cores,
    available_memory_mib,
    peak_rss_mib,
    power_mode,
    this_machine,
)

ASK = (
    "import msgspec, os, sys\n"
    "if len(sys.argv) > 1: os.sched_setaffinity(0, {int(sys.argv[1])})\n"
    "from edgetl.machine import this_machine\n"
    "print(msgspec.json.encode(this_machine()).decode())"
)
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def other_process(*args: str) -> Machine:
    done = subprocess.run([sys.executable, "-c", ASK, *args], capture_output=True, check=True)
    return msgspec.json.decode(done.stdout, type=Machine)


def test_this_machine_is_described() -> None:
    machine = this_machine()
    assert machine.arch == platform.machine()
    assert machine.cpu
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert set(machine.features) <= set(FEATURES)
    assert machine.system.startswith(platform.system())


@linux
def test_features_and_memory_are_those_of_the_kernel() -> None:
    machine, text = this_machine(), Path("/proc/cpuinfo").read_text("utf-8")
    words = set(text.split())
    assert machine.features == tuple(name for name in FEATURES if name in words)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine.memory_gib == pytest.approx(pages / 2**30, rel=0.1, abs=0.1)


def test_another_process_sees_the_same_fingerprint() -> None:
    assert other_process() == this_machine()


def limited(root: Path, cgroup: str, mounts: str, **quotas: str) -> int:
    """Cores within files as the kernel shows them; `quotas` are texts by path, "__" for "/"."""
    files = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts}
    files |= {f"sys/fs/cgroup/{k.replace('__', '/')}": v for k, v in quotas.items()}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return available_cores(root)


V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
SET = "34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
HALF, ONE, MANY, FREE = "50000 100000\n", "100000 100000\n", "6400000 100000\n", "max 100000\n"


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four processors, whatever the machine has."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)


@pytest.mark.parametrize(
    ("quotas", "cores"),
    [
        ({}, 4),
        ({"cpu.max": FREE, "a__b__cpu.max": FREE}, 4),
        ({"a__b__cpu.max": "200000 100000"}, 2),
        ({"a__b__cpu.max": "20000 10000"}, 2),
        ({"a__b__cpu.max": HALF}, 1),  # never none
        ({"a__b__cpu.max": MANY}, 4),  # no more than there are
        ({"a__cpu.max": ONE, "a__b__cpu.max": FREE}, 1),  # the group around it
        ({"cpu.max": ONE, "a__b__cpu.max": "300000 100000"}, 1),  # the container
        ({"a__b__cpu.max": "300000 100000", "a__cpu.max": MANY}, 3),
        ({"a__c__cpu.max": ONE}, 4),  # another's
        ({"a__b__cpu.max": "garbage"}, 4),
    ],
)
@pytest.mark.usefixtures("four")
def test_quotas_of_version_2(quotas: dict[str, str], cores: int, tmp_path: Path) -> None:
    assert limited(tmp_path, "0::/a/b\n", V2, **quotas) == cores


@pytest.mark.parametrize(
    ("cgroup", "mounts", "group", "cores"),
    [
        ("4:cpu,cpuacct:/a\n3:cpuset:/b\n0::/c\n", V1 + SET, "a__", 2),
        ("4:cpu,cpuacct:/a/b\n", V1, "a__", 2),  # the group around it
        ("4:cpu,cpuacct:/a\n", V1, "b__", 4),  # another's
        ("4:cpu,cpuacct:/\n", V1, "", 2),
        # A container on a host of version 1 sees the host's path and its own group mounted.
        ("4:cpu,cpuacct:/docker/1f\n", V1.replace(" / ", " /docker/1f "), "", 2),
        ("4:cpu,cpuacct:/docker/1f/x\n", V1.replace(" / ", " /docker/1f "), "x__", 2),
        ("4:cpu,cpuacct:/../..\n", V1, "", 2),  # of a group outside of what is seen
        ("", V1, "", 2),
        ("4:cpu,cpuacct:/a\n0::/b\n", V2.replace("up rw", "up/unified rw") + V1, "a__", 2),
    ],
)
@pytest.mark.usefixtures("four")
def test_quotas_of_version_1(
    cgroup: str, mounts: str, group: str, cores: int, tmp_path: Path
) -> None:
    files = {f"cpu,cpuacct__{group}cpu.cfs_quota_us": "200000\n"}
    files |= {f"cpu,cpuacct__{group}cpu.cfs_period_us": "100000\n"}
    assert limited(tmp_path, cgroup, mounts, **files) == cores


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(("quota", "cores"), [("-1", 4), ("", 4), ("1000", 1), ("900000", 4)])
def test_quotas_of_version_1_by_value(quota: str, cores: int, tmp_path: Path) -> None:
    files = {"cpu,cpuacct__a__cpu.cfs_quota_us": quota}
    files |= {"cpu,cpuacct__a__cpu.cfs_period_us": "100000"}
    assert limited(tmp_path, "4:cpu,cpuacct:/a\n", V1, **files) == cores


@pytest.mark.usefixtures("four")
def test_a_mount_may_have_blanks_in_its_path(tmp_path: Path) -> None:
    mounts = V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/my\\040groups ")
    assert limited(tmp_path, "0::/a\n", mounts, **{"my groups__a__cpu.max": ONE}) == 1


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize("text", ["", "\n", "x", "x - y", "1 2 3 - cgroup2", " - cgroup"])
def test_odd_tables_limit_nothing(text: str, tmp_path: Path) -> None:
    assert limited(tmp_path, text, text) == 4
    assert available_cores(tmp_path / "nowhere") == 4


MIB = 2**20
V1_MEMORY = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files", "mib"),
    [
        ("", "", {}, 900.0),
        ("0::/a/b\n", V2, {"a__b__memory.max": "max\n"}, 900.0),
        ("0::/a/b\n", V2, {"a__b__memory.max": f"{500 * MIB}\n"}, 400.0),
        ("0::/a/b\n", V2, {"a__memory.max": f"{200 * MIB}\n"}, 100.0),  # the group around it
        ("0::/a/b\n", V2, {"a__c__memory.max": f"{200 * MIB}\n"}, 900.0),  # another's
        ("0::/a/b\n", V2, {"a__b__memory.max": f"{50 * MIB}\n"}, 0.0),
        ("0::/a/b\n", V2, {"a__b__memory.max": "odd\n"}, 900.0),
        # Files that were read lately are let go where room is needed.
        (
            "0::/a/b\n",
            V2,
            {
                "a__b__memory.max": f"{500 * MIB}\n",
                "a__b__memory.stat": f"anon 7\ninactive_file {60 * MIB}\n",
            },
            460.0,
        ),
        (
            "4:memory:/a\n",
            V1_MEMORY,
            {
                "memory__a__memory.limit_in_bytes": f"{300 * MIB}\n",
                "memory__a__memory.usage_in_bytes": f"{100 * MIB}\n",
                "memory__a__memory.stat": f"cache 9\ntotal_inactive_file {30 * MIB}\n",
            },
            230.0,
        ),
    ],
)
def test_memory_is_what_the_machine_and_its_groups_leave(
    cgroup: str, mounts: str, files: dict[str, str], mib: float, tmp_path: Path
) -> None:
    used = {f"{group}memory.current": f"{100 * MIB}\n" for group in ("a__", "a__b__", "a__c__")}
    limited(tmp_path, cgroup, mounts, **used | files)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 2048000 kB\nMemAvailable: 921600 kB\n")
    assert available_memory_mib(tmp_path) == mib


@linux
def test_memory_of_this_machine_is_finite(tmp_path: Path) -> None:
    assert 0 < available_memory_mib() <= 1024 * this_machine().memory_gib + 100
    assert available_memory_mib(tmp_path) == math.inf


@pytest.mark.parametrize(
    ("starts", "told"),
    [
        ("InferenceSession(", "intra_op_num_threads"),
        ("compile_model(", "THREADS"),
        ("ThreadPoolExecutor(", "available_cores"),
    ],
)
def test_whatever_starts_threads_is_told_how_many(starts: str, told: str) -> None:
    """By `available_cores`: engines and pools do not know of quotas by themselves."""
    home = Path(edgetl.__file__).parent
    texts = {str(p.relative_to(home)): p.read_text("utf-8") for p in home.rglob("*.py")}
    # A pool of one thread, which reads ahead, has no number to be told.
    users = {n for n, text in texts.items() if starts in text.replace(f"{starts}1", "")}
    assert users
    for name in users:
        assert told in texts[name], name
        assert "available_cores()" in texts[name], name
    assert [name for name, text in texts.items() if "cpu_count" in text] == ["machine.py"]


@linux
def test_fewer_cores_are_another_machine() -> None:
    if available_cores() < 2:
        pytest.skip("needs two cores")
    one = other_process(str(min(os.sched_getaffinity(0))))
    assert one.cores == 1
    assert one.fingerprint != this_machine().fingerprint


@pytest.mark.parametrize(
    ("features", "vnni", "bf16"),
    [
        (("avx2",), False, False),
        (("avx2", "avx_vnni"), True, False),
        (("avx512f", "avx512_vnni", "avx512_bf16"), True, True),
        (("amx_tile", "amx_int8", "amx_bf16"), True, True),
        (("asimd",), False, False),
        (("asimd", "asimddp"), True, False),
        (("asimd", "i8mm", "bf16"), True, True),
    ],
)
def test_native_arithmetic_follows_the_features(
    features: tuple[str, ...], vnni: bool, bf16: bool
) -> None:
    machine = msgspec.structs.replace(this_machine(), features=features)
    assert (machine.vnni, machine.bf16) == (vnni, bf16)


def test_the_power_mode_is_the_governor_where_there_is_one() -> None:
    if Path("/etc/nv_tegra_release").exists():
        pytest.skip("a Jetson reports nvpmodel's mode")
    file = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    assert power_mode() == (file.read_text("utf-8").strip() if file.exists() else None)


def test_peak_memory_grows_with_use_and_never_shrinks() -> None:
    before = peak_rss_mib()
    block = np.ones(int((before + 64) * 2**20), np.uint8)
    grown = peak_rss_mib()
    assert grown >= block.nbytes / 2**20
    del block
    assert peak_rss_mib() >= grown - 1  # the kernel counts by batches of pages
