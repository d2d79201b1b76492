"""What edgetl says of the machine that it runs on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgetl.machine import (
    FEATURES,
    Machine,
    available_cores,
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
