"""Let the C library keep freed memory: training wants the same large blocks at every step."""

import ctypes
import os

# Names of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER = 2**31 - 1


def keep() -> bool:
    """Serve large blocks from a heap that never shrinks; False where there is no glibc.

    By default glibc maps each block over 32 MB at most afresh, so that every step pays for zeroed
    pages again. MALLOC_MMAP_MAX_ in the environment, if set, has been heeded already and stands.
    """
    if "MALLOC_MMAP_MAX_" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, 64 * 2**20))
    return all(mallopt(name, value) == 1 for name, value in settings)
