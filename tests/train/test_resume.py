"""A run that was killed, anywhere, ends as if it had not been: same bytes, same metrics."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from espalier.errors import MachineError, UserError
from espalier.fit import fit
from espalier.run import Run
from espalier.train import events
from tests.conftest import ROOT
from tests.train import tiny

TIMES = ("time", "ms", "tokens_per_s", "mfu", "wait_ms", "seconds")


def content(run: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl says, times left out."""
    records = Run.open(run).metrics()
    return [{k: v for k, v in record.items() if k not in TIMES} for record in records]


def weights(run: Path) -> dict[str, bytes]:
    folder = Run.open(run).latest()
    assert folder is not None
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


def kill(folder: Path, kills: int, seed: int, *overrides: str) -> int:
    """Run killer.py there; how many times it killed."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    command = [sys.executable, "-m", "tests.train.killer", str(folder), str(kills), str(seed)]
    done = subprocess.run(
        [*command, *overrides],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def assert_equal(folder: Path) -> None:
    assert weights(folder / "killed") == weights(folder / "whole")
    assert content(folder / "killed") == content(folder / "whole")


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    kills = kill(tmp_path, 6, 1, "train.max_iters=60", "train.save_interval=2")
    assert_equal(tmp_path)
    assert kills > 0


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
def test_a_hundred_kills(tmp_path: Path, seed: int) -> None:
    kill(tmp_path, 20, seed, "train.max_iters=120", "train.save_interval=1", "train.optimizer=muon")
    assert_equal(tmp_path)


def run_through(out: Path, corpus: Path, *overrides: str, stop_at: int | None = None) -> list[Any]:
    """Train; when `stop_at` updates are made, ask it to stop."""
    seen: list[Any] = []
    plan = tiny.experiment(corpus, *overrides)

    def enough() -> bool:
        steps = [event.step for event in seen if isinstance(event, events.Stepped)]
        return stop_at is not None and bool(steps) and steps[-1] >= stop_at

    again = (out / "config.yaml").exists()
    for event in fit(plan, out, resume=again, device="cpu", interrupted=enough):
        seen.append(event)  # noqa: PERF402 - `enough` looks at it meanwhile
    return seen


@pytest.mark.parametrize("step", [1, 9, 10, 20])
def test_an_interrupted_run_goes_on_even_before_an_evaluation_was_made(
    tmp_path: Path, corpus: Path, step: int
) -> None:
    run_through(tmp_path / "whole", corpus)
    first = run_through(tmp_path / "killed", corpus, stop_at=step)
    assert first[-1].reason == "interrupted"
    assert first[-1].step == step
    last = run_through(tmp_path / "killed", corpus)
    assert last[-1].reason == "horizon"
    assert_equal(tmp_path)


def test_a_run_that_stopped_before_its_first_checkpoint_begins_again_from_its_init(
    tmp_path: Path, corpus: Path
) -> None:
    list(fit(tiny.experiment(corpus), tmp_path / "parent", device="cpu"))
    plan = tiny.experiment(corpus, f"train.init={tmp_path / 'parent'}", "train.max_iters=1")
    first = list(fit(plan, tmp_path / "child", device="cpu", interrupted=lambda: True))
    assert first[-1].step == 0
    seen = list(fit(plan, tmp_path / "child", resume=True, device="cpu"))
    losses = [event.val_loss for event in seen if isinstance(event, events.Evaluated)]
    assert losses[0] < 2.0  # a fresh model of 11 symbols has ln 11 = 2.4


def test_a_damaged_newest_checkpoint_is_skipped_by_name_and_the_end_is_the_same(
    tmp_path: Path, corpus: Path
) -> None:
    run_through(tmp_path / "whole", corpus)
    run_through(tmp_path / "killed", corpus, stop_at=17)
    newest = Run.open(tmp_path / "killed").checkpoint(17) / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 4
    newest.write_bytes(bytes(data))
    told = run_through(tmp_path / "killed", corpus)
    noted = [event.message for event in told if isinstance(event, events.Noted)]
    assert len(noted) == 1
    assert "step-00000017: model.safetensors has changed" in noted[0]
    assert_equal(tmp_path)


def test_the_horizon_may_be_moved_and_a_shape_may_not(tmp_path: Path, corpus: Path) -> None:
    run_through(tmp_path / "a", corpus, "train.max_iters=4")
    told = run_through(tmp_path / "a", corpus, "train.max_iters=6")
    assert told[0].step == 4
    assert told[-1].step == 6
    assert Run.open(tmp_path / "a").config["train"]["max_iters"] == 6
    with pytest.raises(UserError, match=r"cannot change model.n_embd: 16 -> 32"):
        run_through(tmp_path / "a", corpus, "model.n_embd=32")


def test_a_corpus_with_other_tokens_is_refused(tmp_path: Path, corpus: Path) -> None:
    run_through(tmp_path / "a", corpus, "train.max_iters=4")
    other = tiny.corpus(tmp_path / "other", train=2999)
    with pytest.raises(UserError, match="SHA-256"):
        run_through(tmp_path / "a", other, "train.max_iters=6")


def test_a_changed_number_of_threads_is_said(tmp_path: Path, corpus: Path) -> None:
    run_through(tmp_path / "a", corpus, "train.max_iters=4")
    state = Run.open(tmp_path / "a").checkpoint(4) / "state.json"
    assert json.loads(state.read_text("utf-8"))["surroundings"]["threads"] == (
        torch.get_num_threads()
    )
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        told = run_through(tmp_path / "a", corpus, "train.max_iters=6")
    finally:
        torch.set_num_threads(before)
    noted = [event.message for event in told if isinstance(event, events.Noted)]
    assert noted == [f"threads is {before + 1}, it was {before}: it goes on, not bit for bit"]


def test_a_run_that_goes_on_past_its_end_is_unfinished_until_it_comes_to_the_next(
    tmp_path: Path, corpus: Path
) -> None:
    done = tmp_path / "a" / "results" / "train.json"
    run_through(tmp_path / "a", corpus, "train.max_iters=4")
    run_through(tmp_path / "a", corpus, "train.max_iters=12", stop_at=6)
    assert not done.exists()
    run_through(tmp_path / "a", corpus, "train.max_iters=12")
    assert json.loads(done.read_text("utf-8"))["step"] == 12


def test_a_finished_run_is_evaluated_once_and_stays_what_it_is(
    tmp_path: Path, corpus: Path
) -> None:
    first = run_through(tmp_path / "a", corpus, "train.max_iters=4")
    before = content(tmp_path / "a")
    seen = run_through(tmp_path / "a", corpus, "train.eval_only=true")
    assert [e.val_loss for e in seen if isinstance(e, events.Evaluated)] == [
        [e.val_loss for e in first if isinstance(e, events.Evaluated)][-1]
    ]
    assert content(tmp_path / "a") == before
    run = Run.open(tmp_path / "a")
    assert run.config["train"]["eval_only"] is False
    assert (run.path / "results" / "train.json").is_file()


def test_a_disk_that_refuses_a_record_is_told_of_and_the_third_time_ends_the_run(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(run: Run, record: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Run, "log", full)
    plan = tiny.experiment(corpus, "evaluate.first=false", "train.save_interval=1000")
    told: list[Any] = []
    with pytest.raises(MachineError, match=r"metrics.jsonl: No space left"):
        told.extend(fit(plan, tmp_path / "a", device="cpu"))
    said = [event.message for event in told if isinstance(event, events.Noted)]
    assert [text.endswith("training goes on") for text in said] == [True, True]
