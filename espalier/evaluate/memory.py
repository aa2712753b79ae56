"""The most memory that a piece of work takes."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Peak:
    """Inside `with`: afterwards `bytes` is the peak, of the device on a GPU, else of the process.

    Linux forgets the peak of earlier work; elsewhere a process' peak is that of its whole life.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.bytes = 0

    def __enter__(self) -> Self:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError):
                RESET.write_text("5", encoding="ascii")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device)
        else:
            self.bytes = _process()


def _process() -> int:
    if STATUS.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB", STATUS.read_text("ascii"), re.MULTILINE)
        if found:
            return 1024 * int(found[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
