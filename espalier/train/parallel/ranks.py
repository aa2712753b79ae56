"""The processes that train one model together, as torchrun starts them, and what they agree on.

Numbers and words that the host decides by travel over gloo, so that no rank waits for its device
to agree with the others; gradients travel over NCCL where there are GPUs.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from torch.distributed.rendezvous import rendezvous

from espalier.errors import MachineError, UserError

TIMEOUT = timedelta(minutes=5)  # after which a rank that hears nothing gives up
GRACE = 1.0  # seconds for rank 0 to speak first, where all fail alike
ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

# What gloo and NCCL say when the other side of a line is gone.
LOST = ("connection closed", "connection reset", "connection refused", "broken pipe", "timed out")


class Ranks:
    """All ranks, as one of them sees them; this class is a process alone, which asks nobody."""

    rank, count = 0, 1

    @property
    def leads(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0

    def total(self, number: int) -> int:
        """The sum over all ranks."""
        return number

    def most(self, *numbers: float) -> tuple[float, ...]:
        """The largest of each over all ranks."""
        return numbers

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        return tensor

    def tell(self, text: str) -> str:
        """What rank 0 says, on all of them."""
        return text

    def texts(self, text: str) -> list[str]:
        """What each rank says, in their order."""
        return [text]


class Joined(Ranks):
    """One of several processes of the group that `joined` made."""

    def __init__(self, rank: int, count: int):
        self.rank, self.count = rank, count

    def total(self, number: int) -> int:
        return int(self.sum(torch.tensor(number, dtype=torch.int64)))

    def most(self, *numbers: float) -> tuple[float, ...]:
        found = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return tuple(found.tolist())

    def sum(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def tell(self, text: str) -> str:
        return self.texts(text if self.leads else "")[0]

    def texts(self, text: str) -> list[str]:
        data = text.encode("utf-8")
        lengths = torch.zeros(self.count, dtype=torch.int64)
        lengths[self.rank] = len(data)
        lengths = self.sum(lengths)
        held = torch.zeros(self.count, max(1, int(lengths.max())), dtype=torch.uint8)
        if data:
            held[self.rank, : len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        rows = zip(self.sum(held), lengths.tolist(), strict=True)
        return [bytes(row[:length].numpy()).decode("utf-8") for row, length in rows]


ALONE = Ranks()
_here: Ranks = ALONE


def here() -> Ranks:
    """The ranks that this process is one of."""
    return _here


def started() -> bool:
    """Whether torchrun, or what sets the same variables, has started this process."""
    return all(name in os.environ for name in ENVIRONMENT)


@contextlib.contextmanager
def joined(wish: str) -> Iterator[str]:
    """Be one of torchrun's ranks meanwhile; gives the device of this one. Alone: gives `wish`.

    The first rank to fail says why, and the others, which lose it, end without a word.
    """
    global _here
    if not started():
        yield wish
        return
    number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local = int(os.environ["LOCAL_RANK"])
    if number:  # results are rank 0's to print
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for good
    store: Any = None
    try:
        store = next(rendezvous("env://", timeout=TIMEOUT))[0]
        device = own_device(wish, local)
        backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
        if device != "cpu":
            torch.cuda.set_device(device)
        dist.init_process_group(
            backend, store=store, rank=number, world_size=count, timeout=TIMEOUT
        )
        _here = Joined(number, count)
        yield device
        dist.barrier()  # rank 0 may still be writing
        dist.destroy_process_group()
    except Exception as error:
        raise failure(error, number, store) from error
    finally:
        _here = ALONE


def own_device(wish: str, local: int) -> str:
    """The device of a machine's rank number `local`; UserError where it has none to itself."""
    if wish == "cpu" or (wish == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if wish not in {"auto", "cuda"}:
        raise UserError(f"under torchrun each rank takes its own device: not --device {wish}")
    there = torch.cuda.device_count()
    if local >= there:
        raise UserError(
            f"rank {local} of this machine has no GPU: {there} are here; "
            f"torchrun --nproc-per-node {max(1, there)}, or --device cpu"
        )
    return f"cuda:{local}"


def failure(error: Exception, rank: int, store: Any) -> BaseException:
    """What a rank raises in the place of `error`: silence, where another has spoken before."""
    with contextlib.suppress(ValueError):  # torchrun's, who would have it die without a word
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    lost, mine = _lost(error), error
    if lost:
        mine = MachineError(
            f"rank {rank} has lost another rank, which ended without a word (killed? out of "
            "memory?). The newest checkpoint stands: start all ranks again with --resume RUN"
        )
    elif rank and isinstance(error, (UserError, MachineError)):
        mine = type(error)(f"rank {rank}: {error}")
    if rank and not lost:
        time.sleep(GRACE)
    if not _first(store, rank):
        return SystemExit(1)
    get_error_handler().record_exception(mine)  # for torchrun's own report
    return mine


def _lost(error: Exception) -> bool:
    """Whether it is the silence of another rank that an error tells of."""
    if isinstance(error, MachineError) or not isinstance(error, RuntimeError):
        return False
    said = any(sign in str(error).lower() for sign in LOST)
    return said or isinstance(error, dist.DistError)


def _first(store: Any, rank: int) -> bool:
    """Whether no rank has failed before this one; true where nobody can be asked."""
    if store is None:
        return True
    with contextlib.suppress(RuntimeError):
        return bool(store.compare_set("espalier/failed", "", str(rank)) == str(rank).encode())
    return True
