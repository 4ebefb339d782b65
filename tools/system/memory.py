"""How the C library deals with freed memory."""

import ctypes
import os
import platform

# Parameters of glibc's mallopt (man 3 mallopt).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, and return whether it will.

    By default the C library takes new pages for a large tensor and returns them as soon as the tensor is freed, so that
    every step of a training on a CPU waits for the system to clear them (docs/performance.md has the cost).
    Call it before the first large tensor. It changes nothing without glibc, or if the environment says when memory is
    returned (`MALLOC_…`; mmap or trim in `GLIBC_TUNABLES`).
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    own = any(name.startswith("MALLOC_") for name in os.environ)
    if own or "malloc.mmap" in tunables or "malloc.trim" in tunables or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
