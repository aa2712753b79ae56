"""A quick start and a quick end for what needs torch."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Around the imports that bring torch: no search for garbage among what modules define.

    Such searches take a sixth of torch's import, and another at the end of the process takes a
    third of a second (`benchmarks/start_up.py`). What stands when the imports are done is set aside
    from all later ones. Where torch is there already nothing changes.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    gc.freeze()
