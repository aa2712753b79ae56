"""Trackers can be slow, broken or hung; a run does not notice."""

import importlib
import importlib.util
import threading
import time
from pathlib import Path

import pytest

from espalier.errors import MachineError
from espalier.train import mirrors
from espalier.train.mirrors import Mirror, Record, Sink

RECORD = {"kind": "train", "step": 1, "loss": 2.0, "time": 0.0}


class Lists(Sink):
    def __init__(self) -> None:
        self.seen: list[Record] = []

    def write(self, record: Record) -> None:
        self.seen.append(record)

    def close(self) -> None:
        pass


def test_records_arrive_in_order() -> None:
    sink = Lists()
    mirror = Mirror("x", lambda: sink)
    for step in range(50):
        mirror.log({**RECORD, "step": step})
    assert mirrors.close([mirror]) == []
    assert [record["step"] for record in sink.seen] == list(range(50))


def test_a_sink_that_raises_is_one_complaint() -> None:
    def refuse() -> Sink:
        raise RuntimeError("no network\nat all")

    mirror = Mirror("wandb", refuse)
    for _ in range(5000):
        mirror.log(RECORD)
    assert mirrors.close([mirror]) == [
        "wandb stopped: RuntimeError: no network. metrics.jsonl is complete"
    ]


def test_a_sink_that_hangs_costs_no_time_and_its_records_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mirrors, "FAREWELL", 0.2)
    monkeypatch.setattr(mirrors, "ROOM", 10)
    hang = threading.Event()

    class Hung(Lists):
        def write(self, record: Record) -> None:
            hang.wait()

    mirror = Mirror("wandb", Hung)
    start = time.monotonic()
    for _ in range(1000):
        mirror.log(RECORD)
    assert time.monotonic() - start < 1
    assert mirror.dropped >= 989
    assert mirrors.close([mirror]) == ["wandb did not finish in time. metrics.jsonl is complete"]
    assert time.monotonic() - start < 2
    hang.set()


def test_a_tracker_that_is_not_installed_is_said_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MachineError, match=r"espalier\[track\]"):
        mirrors.start(("wandb",), tmp_path, {})


def test_curves_are_made_of_numbers() -> None:
    record = {"kind": "train", "step": 3, "time": 9.0, "loss": 2.0, "mfu": None, "text": "x"}
    assert mirrors.scalars(record) == {"loss": 2.0}


@pytest.mark.long
def test_tensorboard_writes_event_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    found = mirrors.start(("tensorboard",), tmp_path, {})
    found[0].log(RECORD)
    found[0].close(60)
    assert found[0].complaint() == ""
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.long
def test_wandb_writes_an_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    found = mirrors.start(("wandb",), tmp_path, {"seed": 1})
    found[0].log(RECORD)
    found[0].close(60)
    assert found[0].complaint() == ""
    assert list((tmp_path / "wandb").glob("offline-run-*"))
