"""Copies of metrics.jsonl for TensorBoard and Weights & Biases, which can never hold up a run.

Each has a thread and a bounded queue of its own. A record that finds the queue full is dropped and
counted, an error ends that mirror, and closing waits a little, not forever.
"""

import importlib
import importlib.util
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from espalier.errors import need

Record = Mapping[str, Any]
ROOM = 1000  # records
NANOCHATS = {"train/tokens_per_s": "train/tok_per_sec", "eval/val_loss": "val/loss"}
FAREWELL = 10.0  # seconds, for all mirrors together


class Mirror:
    """One tracker behind a queue. `open_sink` runs in the thread: it may be slow, or fail."""

    def __init__(self, name: str, open_sink: Callable[[], "Sink"]):
        self.name, self.open_sink = name, open_sink
        self.dropped = 0
        self.error = ""
        self._queue: queue.Queue[Record | None] = queue.Queue(ROOM)
        self._thread = threading.Thread(target=self._work, name=f"mirror-{name}", daemon=True)
        self._thread.start()

    def log(self, record: Record) -> None:
        """Hand a record over, or drop it; never waits."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def close(self, seconds: float) -> None:
        """Give it at most `seconds` to write what it has."""
        end = time.monotonic() + seconds
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(max(0.0, end - time.monotonic()))

    def complaint(self) -> str:
        """What went wrong, in one line; empty when nothing did."""
        if self.error:
            return f"{self.name} stopped: {self.error}. metrics.jsonl is complete"
        if self._thread.is_alive():
            return f"{self.name} did not finish in time. metrics.jsonl is complete"
        return f"{self.name} missed {self.dropped} records" if self.dropped else ""

    def _work(self) -> None:
        try:
            sink = self.open_sink()
            while (record := self._queue.get()) is not None:
                sink.write(record)
            sink.close()
        except BaseException as error:
            self.error = f"{type(error).__name__}: {error}".splitlines()[0]
            while self._queue.get() is not None:  # so that nobody counts drops of a dead mirror
                pass


class Sink:
    """Where a mirror writes."""

    def write(self, record: Record) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class TensorBoard(Sink):
    """Event files under RUN/tensorboard."""

    def __init__(self, folder: Path):
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self.writer = writer(str(folder / "tensorboard"))

    def write(self, record: Record) -> None:
        if record["kind"] == "sample":
            self.writer.add_text("sample", record["text"], record["step"])
        for key, value in scalars(record).items():
            self.writer.add_scalar(f"{record['kind']}/{key}", value, record["step"])

    def close(self) -> None:
        self.writer.close()


class WandB(Sink):
    """A run under RUN/wandb; offline unless WANDB_MODE says otherwise."""

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        wandb = need("wandb", "track")
        mode = os.environ.get("WANDB_MODE", "offline")
        settings = wandb.Settings(silent=True, console="off", disable_git=True)
        self.run = wandb.init(
            dir=str(folder),
            name=folder.name,
            config=dict(config),
            mode=mode,
            settings=settings,
            project=os.environ.get("WANDB_PROJECT", "espalier"),
        )

    def write(self, record: Record) -> None:
        named = {f"{record['kind']}/{key}": value for key, value in scalars(record).items()}
        if named:
            self.run.log(named | nanochats(named) | {"step": record["step"]})

    def close(self) -> None:
        self.run.finish()


def nanochats(named: Mapping[str, float]) -> dict[str, float]:
    """The same once more in nanochat's names, for boards that have runs of both."""
    found = {new: named[old] for old, new in NANOCHATS.items() if old in named}
    return found | ({"train/dt": named["train/ms"] / 1000} if "train/ms" in named else {})


def scalars(record: Record) -> dict[str, float]:
    """The numbers of a record that make curves."""
    return {
        key: value
        for key, value in record.items()
        if key not in {"step", "kind", "time"} and isinstance(value, (int, float))
    }


def start(names: tuple[str, ...], folder: Path, config: Mapping[str, Any]) -> list[Mirror]:
    """The mirrors that `train.track` names. MachineError at once for one that is not installed."""
    sinks: dict[str, Callable[[], Sink]] = {
        "tensorboard": lambda: TensorBoard(folder),
        "wandb": lambda: WandB(folder, config),
    }
    for name in names:
        if importlib.util.find_spec(name) is None:
            need(name, "track")
    return [Mirror(name, sinks[name]) for name in names]


def close(mirrors: list[Mirror]) -> list[str]:
    """Close all, within FAREWELL; what is to be said about them."""
    end = time.monotonic() + FAREWELL
    for mirror in mirrors:
        mirror.close(max(0.0, end - time.monotonic()))
    return [text for mirror in mirrors if (text := mirror.complaint())]
