"""Freed memory is kept on a CPU: a second large tensor needs no fresh pages."""

import platform
import subprocess
import sys

import pytest

from tests.helpers.command_line import ROOT

FAULTS = """
import resource, sys
import torch
from core.evaluation.loading import choose_device

choose_device("cpu", keep_memory=sys.argv[1] == "keep")
for count in range(6):
    torch.ones(1 << 24)  # 64 MiB: 16,384 pages; glibc keeps up to 32 MiB by itself
    if not count:
        first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first) // 16384)
"""


def pages_of_five_tensors(keep: str, **variables: str) -> int:
    """Return how many times 64 MiB of fresh pages five tensors of that size needed after a first one."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-c", FAULTS, keep]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize(
    "keep, variables, fresh",
    [
        ("keep", {}, False),
        ("release", {}, True),
        ("keep", {"MALLOC_MMAP_THRESHOLD_": "1048576"}, True),  # the user's own settings win
        ("keep", {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1048576"}, True),
        ("keep", {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}, False),  # nothing about returning memory
    ],
)
def test_freed_memory_is_kept_unless_the_user_tunes_the_c_library(keep, variables, fresh):
    assert (pages_of_five_tensors(keep, **variables) >= 4) == fresh
