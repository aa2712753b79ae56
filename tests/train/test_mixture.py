"""Mixtures of corpora: right shares, every window once an epoch, exact where a run goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from espalier.config import decode, encode
from espalier.data.mixture import Mixture, Shares
from espalier.data.reading import Reading
from espalier.data.settings import DataConfig
from espalier.data.tokens import Tokens
from espalier.errors import ConfigError, UserError
from espalier.experiment import Experiment, apply
from espalier.fit import fit
from espalier.run import Run
from espalier.train.checkpoint import read
from tests.train import tiny


@pytest.fixture
def tokens(tmp_path: Path) -> list[Tokens]:
    """Two corpora that cannot be taken for each other: ids 0 to 99, and 100 to 199."""
    found = []
    for k, length in enumerate((401, 801)):
        file = tmp_path / f"{k}.bin"
        (100 * k + np.arange(length) % 100).astype("<u2").tofile(file)
        found.append(Tokens([file], "<u2", 200))
    return found


def mixture(tokens: list[Tokens], mixing: str = "drawn", **shares: Any) -> Mixture:
    given = {"first": (3, 1), "last": (3, 1)} | shares
    return Mixture(tokens, 8, 7, Shares(**given), mixing)


def test_each_row_is_of_the_corpus_it_says(tokens: list[Tokens]) -> None:
    inputs, targets, sources = mixture(tokens).batch(5, 64)
    assert (inputs // 100 == sources[:, None]).all()
    assert torch.equal(targets % 100, (inputs + 1) % 100)
    assert inputs.shape == (64, 8)


@pytest.mark.parametrize(("mixing", "off"), [("drawn", 0.02), ("even", 0.0005)])
def test_corpora_come_by_their_weights(tokens: list[Tokens], mixing: str, off: float) -> None:
    sources = mixture(tokens, mixing).sources(np.arange(10_000))
    assert sources.mean() == pytest.approx(0.25, abs=off)


def test_even_mixing_is_even_everywhere(tokens: list[Tokens]) -> None:
    sources = mixture(tokens, "even").sources(np.arange(10_000))
    runs = np.convolve(sources, np.ones(20), "valid")
    assert runs.min() >= 4
    assert runs.max() <= 6


def test_weights_go_over_in_a_straight_line(tokens: list[Tokens]) -> None:
    plan = mixture(tokens, "even", first=(1, 0), last=(0, 1), begin=1000, end=3000)
    sources = plan.sources(np.arange(4000))
    assert not sources[:1000].any()
    assert sources[3000:].all()
    assert sources[1900:2100].mean() == pytest.approx(0.5, abs=0.02)
    assert sources[1400:1600].mean() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("mixing", ["drawn", "even"])
def test_batches_do_not_depend_on_where_reading_began(tokens: list[Tokens], mixing: str) -> None:
    whole = mixture(tokens, mixing)
    rows = torch.cat([whole.batch(i, 4)[0] for i in range(0, 200, 4)])
    assert torch.equal(mixture(tokens, mixing).batch(77, 50)[0], rows[77:127])
    assert torch.equal(whole.batch(3, 5)[0], rows[3:8])


def test_every_window_of_a_corpus_is_read_once_an_epoch(tokens: list[Tokens]) -> None:
    plan = mixture(tokens)
    sources, starts = plan.run(0, 1000)
    mine = starts[sources == 0][: len(plan.orders[0])]
    assert len(set(mine.tolist())) == len(plan.orders[0])


def mixed(tmp_path: Path, *overrides: str) -> Experiment:
    one, other = (tiny.corpus(tmp_path / name, size) for name, size in (("a", 3000), ("b", 2000)))
    plan = encode(tiny.experiment(one, *overrides))
    plan["data"] |= {"corpus": None, "mixture": [{"corpus": str(one)}, {"corpus": str(other)}]}
    return decode(Experiment, plan)


def test_a_mixture_is_scored_corpus_by_corpus(tmp_path: Path) -> None:
    plan = mixed(tmp_path, "train.max_iters=4", "train.eval_interval=4")
    list(fit(plan, tmp_path / "run", device="cpu"))
    run = Run.open(tmp_path / "run")
    (_, last) = (record for record in run.metrics() if record["kind"] == "eval")
    assert last["val_losses"].keys() == {"a", "b"}
    assert last["val_loss"] == pytest.approx(np.mean(list(last["val_losses"].values())))
    assert run.config["data"]["corpus"] == str(tmp_path / "a")


def test_everything_that_changes_on_the_way_resumes_bit_for_bit(tmp_path: Path) -> None:
    """Growing batches and windows, a mixture in transition, a plateau, drawn targets."""
    plan = mixed(
        tmp_path,
        "train.max_iters=24",
        "train.eval_interval=2",
        "train.save_interval=5",
        "train.batch_schedule=[{start: 6, gradient_accumulation_steps: 3}]",
        "train.length_schedule=[{until: 9, block_size: 4}]",
        "train.schedule={name: plateau, patience: 0, threshold: 0.02, factor: 0.7}",
        "train.optimizer={name: lookahead, inner: {name: sophia_g, every: 3}}",
    )
    moving = [{"data": {"transition": [4, 18]}}]
    tree = encode(plan)
    tree["data"] |= moving[0]["data"]
    tree["data"]["mixture"][0]["final"] = 0.2
    plan = decode(Experiment, tree)
    whole = list(fit(plan, tmp_path / "whole", device="cpu"))
    short = apply(plan, ["train.stop.tokens=700"])
    list(fit(short, tmp_path / "parts", device="cpu"))
    list(fit(plan, tmp_path / "parts", resume=True, device="cpu"))
    ours, theirs = (Run.open(tmp_path / name) for name in ("parts", "whole"))
    kept = ("kind", "step", "loss", "lr", "tokens", "val_loss", "val_losses")
    one, other = ([{k: r.get(k) for k in kept} for r in run.metrics()] for run in (ours, theirs))
    assert [r for r in one if r["kind"] == "train"] == [r for r in other if r["kind"] == "train"]
    assert len({r["lr"] for r in other if r["kind"] == "train"}) > 4  # warm-up, then plateaus
    for name in ("model.safetensors", "optimizer.safetensors"):
        mine, hers = (read(run.checkpoint(24) / name) for run in (ours, theirs))
        assert all(torch.equal(mine[key], hers[key]) for key in hers)
    assert whole[-1].summary["tokens"] == 64 * 6 + 96 * 18  # type: ignore[union-attr]


def test_a_micro_batch_keeps_its_tokens_when_windows_are_cut(tmp_path: Path) -> None:
    plan = mixed(tmp_path, "train.length_schedule=[{until: 9, block_size: 2}]")
    reading = Reading(plan.data, 1, 8)
    reading.plan(lambda steps: steps)
    inputs, targets, source = reading.batch(0, 6)
    from espalier.train.steps import Batch, shortened

    cut = shortened(Batch(inputs, targets, 3, source), 4)
    assert cut.inputs.shape == cut.targets.shape == (24, 2)
    assert cut.micro_rows == 12
    assert torch.equal(cut.inputs.reshape(6, 8), inputs)
    assert source is not None
    assert cut.source is not None
    assert torch.equal(cut.source.reshape(6, 4), source[:, None].expand(6, 4))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"corpus": "c", "mixture": [{"corpus": "a"}]}, "corpus=c is not in the mixture"),
        ({"mixture": [{"corpus": "a", "weight": 0}]}, "cannot all be 0"),
        ({"mixture": [{"corpus": "a", "final": 1}]}, "one is missing"),
        ({"transition": [0, 9]}, "one is missing"),
        ({"mixture": [{"corpus": "a", "final": 1}], "transition": [9, 9]}, "a later end"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decode(DataConfig, tree)


def test_corpora_of_two_tokenizers_are_not_mixed(tmp_path: Path) -> None:
    one, other = tiny.corpus(tmp_path / "a"), tiny.corpus(tmp_path / "b")
    meta = (other / "meta.pkl").read_bytes()
    (other / "meta.pkl").write_bytes(meta.replace(b"\x8c\x01a", b"\x8c\x01z"))
    data = decode(DataConfig, {"mixture": [{"corpus": str(one)}, {"corpus": str(other)}]})
    with pytest.raises(UserError, match="b has another tokenizer than"):
        Reading(data, 1, 8)


def test_few_tokens_are_read_over_and_over_and_validation_is_whole(tmp_path: Path) -> None:
    place = str(tiny.corpus(tmp_path / "data"))
    few = Reading(decode(DataConfig, {"corpus": place, "train_tokens": 40}), 7, 8)
    whole = Reading(decode(DataConfig, {"corpus": place}), 7, 8)
    assert (few.train_tokens, few.val_tokens) == (40, whole.val_tokens)
    read = few.batch(0, 64)[0].unique(dim=0)
    beginning = whole.first.train.gather(np.arange(33), 8).tolist()
    assert all(row in beginning for row in read.tolist())
