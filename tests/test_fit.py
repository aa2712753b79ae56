"""A run from beginning to end: what it tells, what it leaves on disk, when it stops."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from espalier.data.corpus import Corpus
from espalier.errors import MachineError, UserError
from espalier.evaluate.loss import score, spread
from espalier.experiment import open_run
from espalier.fit import fit
from espalier.run import Run
from espalier.train import events
from espalier.train.loss import cross_entropy as losses
from espalier.train.steps import DivergedError
from tests.train import tiny


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.corpus(tmp_path_factory.mktemp("corpus") / "tiny")


def train(out: Path, corpus: Path, *overrides: str) -> list[Any]:
    return list(fit(tiny.experiment(corpus, *overrides), out, device="cpu"))


def of(kind: type, told: list[Any]) -> list[Any]:
    return [event for event in told if isinstance(event, kind)]


def test_a_run_learns_and_tells_what_it_did(tmp_path: Path, corpus: Path) -> None:
    told = train(tmp_path / "run", corpus, "train.max_iters=60", "train.eval_interval=20")
    start, end = told[0], told[-1]
    assert isinstance(start, events.Started)
    assert (start.step, start.horizon, start.tokens_per_step) == (0, 60, 64)
    assert [event.step for event in of(events.Evaluated, told)] == [0, 20, 40, 60]
    assert [event.step for event in of(events.Stepped, told)] == list(range(1, 61))
    losses = [event.val_loss for event in of(events.Evaluated, told)]
    assert losses[0] == pytest.approx(math.log(11), abs=0.05)
    assert losses[-1] < 1.8
    assert isinstance(end, events.Finished)
    assert end.reason == "horizon"
    assert end.summary == json.loads((tmp_path / "run/results/train.json").read_text("utf-8"))


def test_the_disk_holds_what_the_plan_of_the_house_says(tmp_path: Path, corpus: Path) -> None:
    train(tmp_path / "run", corpus, "train.sample.interval=15", "train.sample.max_new_tokens=5")
    run = Run.open(tmp_path / "run")
    kinds = {record["kind"] for record in run.metrics()}
    assert kinds == {"train", "eval", "sample"}
    record = next(r for r in run.metrics() if r["kind"] == "train")
    assert list(record) == [
        *("kind", "step", "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "mfu", "ms"),
        *("wait_ms", "time"),
    ]
    assert sorted(file.name for file in run.path.iterdir()) == [
        *("checkpoints", "config.yaml", "environment.json", "metrics.jsonl", "results", "samples"),
        "tokenizer.json",
    ]
    assert run.steps() == [28, 30]
    assert {"python", "torch", "numpy", "platform", "cpu", "threads", "commit", "argv"} <= set(
        run.environment
    )
    _, experiment, tokenizer, _ = open_run(run.path)
    assert experiment.model.vocab_size == tokenizer.vocab_size == 11
    assert tokenizer.decode([0, 1]) == "ab"


def test_the_validation_loss_is_the_same_at_any_batch_size(tmp_path: Path, corpus: Path) -> None:
    model, *_ = _trained(tmp_path, corpus)
    first = [
        event.val_loss
        for rows in (1, 3, 7)
        for event in of(
            events.Evaluated,
            train(
                tmp_path / f"eval{rows}",
                corpus,
                f"data.batch_size={rows}",
                "train.eval_only=true",
                f"train.init={tmp_path / 'trained'}",
            ),
        )
    ]
    assert len(first) == 3
    assert len(set(first)) == 1
    assert _by_hand(model, corpus) == pytest.approx(first[0], abs=1e-6)


def _trained(tmp_path: Path, corpus: Path) -> tuple[Any, ...]:
    train(tmp_path / "trained", corpus, "train.max_iters=8")
    return open_run(tmp_path / "trained")


def _by_hand(model: Any, corpus: Path) -> float:
    tokens = torch.from_numpy(np.fromfile(corpus / "val.bin", "<u2").astype(np.int64))
    total = torch.zeros((), dtype=torch.float64)
    count = 0
    model.eval()
    with torch.no_grad():
        for start in range(0, len(tokens) - 8, 8):
            ids, targets = tokens[start : start + 8], tokens[start + 1 : start + 9]
            found = model(ids[None])[0].log_softmax(-1).double()
            total -= found[range(8), targets].sum()
            count += 8
    assert count == 296
    return float(total) / count


def test_windows_are_spread_evenly_when_there_is_a_limit() -> None:
    starts = np.arange(10)
    assert spread(starts, 3).tolist() == [0, 3, 6]
    assert spread(starts, None) is starts


def test_an_evaluation_leaves_the_model_as_it_was(tmp_path: Path, corpus: Path) -> None:
    model, experiment, _, _ = _trained(tmp_path, corpus)
    model.train()
    score(model, Corpus.open(corpus).val, np.array([0, 8]), experiment.model.block_size)
    assert model.training


@pytest.mark.parametrize(
    ("overrides", "reason", "step"),
    [
        (["train.stop.tokens=640"], "tokens", 10),
        (["train.target_tokens=700"], "horizon", 11),
        (["train.stop.val_loss=2.3", "train.eval_interval=2", "train.max_iters=99"], "val_loss", 0),
        (["train.stop.seconds=0.000001"], "seconds", 1),
        (
            [
                *("train.stop.patience=2", "train.eval_interval=3", "train.grad_clip=0"),
                *("train.learning_rate=1e-9", "train.min_lr=0", "train.warmup_iters=100"),
                "train.weight_decay=0",
            ],
            "patience",
            0,
        ),
        (["train.max_iters=0"], "horizon", 0),
    ],
)
def test_a_run_ends_for_the_first_of_its_reasons(
    tmp_path: Path, corpus: Path, overrides: list[str], reason: str, step: int
) -> None:
    told = train(tmp_path / "run", corpus, *overrides)
    end = told[-1]
    assert end.reason == reason
    assert end.step == step or step == 0
    assert of(events.Evaluated, told)[-1].step == end.step
    if end.step:
        assert Run.open(tmp_path / "run").latest() == Run.open(tmp_path / "run").checkpoint(
            end.step
        )


def test_only_the_best_is_saved_when_that_is_asked_for(tmp_path: Path, corpus: Path) -> None:
    told = train(
        tmp_path / "run", corpus, "train.always_save_checkpoint=false", "train.save_interval=1"
    )
    best = [event.step for event in of(events.Evaluated, told) if event.best and event.step]
    assert [event.step for event in of(events.Saved, told)] == best


def test_eval_only_trains_and_saves_nothing(tmp_path: Path, corpus: Path) -> None:
    told = train(tmp_path / "run", corpus, "train.eval_only=true")
    assert [type(event).__name__ for event in told] == ["Started", "Evaluated", "Finished"]
    assert Run.open(tmp_path / "run").steps() == []


def test_a_run_may_start_from_anothers_weights(tmp_path: Path, corpus: Path) -> None:
    _trained(tmp_path, corpus)
    before = json.loads((tmp_path / "trained/results/train.json").read_text("utf-8"))["val_loss"]
    told = train(tmp_path / "next", corpus, f"train.init={tmp_path / 'trained'}")
    assert of(events.Evaluated, told)[0].val_loss == before


def test_the_seed_alone_decides_a_run(tmp_path: Path, corpus: Path) -> None:
    losses = [
        of(events.Evaluated, train(tmp_path / name, corpus, f"seed={seed}"))[-1].val_loss
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert losses[0] == losses[1] != losses[2]


def test_divergence_stops_the_run_and_keeps_the_last_good_weights(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    original = losses.cross_entropy

    def poisoned(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        found: torch.Tensor = original(logits, targets)
        return found * float("nan") if calls > 20 else found

    monkeypatch.setattr(losses, "cross_entropy", poisoned)
    with pytest.raises(DivergedError, match=r"step 13: .*not finite 3 times in a row"):
        train(tmp_path / "run", corpus, "train.save_interval=1", "train.keep=9")
    model, *_ = open_run(tmp_path / "run")
    assert all(p.isfinite().all() for p in model.parameters())
    kept = Run.open(tmp_path / "run")
    assert [kept.metrics()[-1]["loss"], kept.metrics()[-1]["step"]] == [None, 13]


def test_a_full_disk_is_survived_twice_and_the_last_save_must_succeed(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage
    times = iter([False, True, True, False] + [False] * 20)

    def usage(path: Path) -> Any:
        found = real(path)
        return found._replace(free=0) if next(times) else found

    monkeypatch.setattr(shutil, "disk_usage", usage)
    told = train(tmp_path / "run", corpus)
    noted = [event.message for event in of(events.Noted, told)]
    assert len(noted) == 2
    assert all("No space left on device" in text for text in noted)
    assert told[-1].reason == "horizon"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=0))
    with pytest.raises(MachineError, match="cannot save"):
        train(tmp_path / "other", corpus, "train.max_iters=3")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.vocab_size=10", "model.vocab_size=10 is smaller than the vocabulary of"),
        ("model.block_size=301", "this split has 301 tokens"),
        ("model.n_head=3", "must divide"),
        ("train.min_lr=1", "above train.learning_rate"),
        ("data.corpus=nowhere", "nowhere does not exist"),
        ("data.corpus=null", "no corpus: data.corpus=DIR"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is_written(
    tmp_path: Path, corpus: Path, override: str, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        train(tmp_path / "run", corpus, override)
    assert not (tmp_path / "run").exists()


def test_two_trainers_cannot_share_a_run(tmp_path: Path, corpus: Path) -> None:
    first = fit(tiny.experiment(corpus), tmp_path / "run", device="cpu")
    next(first)
    with pytest.raises(UserError, match="in use by process"):
        list(fit(tiny.experiment(corpus), tmp_path / "run", resume=True, device="cpu"))
    first.close()  # type: ignore[attr-defined]
