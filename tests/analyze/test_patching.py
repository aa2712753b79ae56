"""Patching recovers a planted circuit, and taking it out takes the behaviour away."""

import pytest
import torch

from espalier.analyze import ablation, patching, prompts, stream
from espalier.analyze.intervene import HEADS, changing, kept
from espalier.analyze.prompts import Prompts
from espalier.analyze.views import Asked
from espalier.errors import UserError
from tests.analyze import planted
from tests.analyze.test_heads import IDS, KINDS, build


@pytest.fixture(scope="module")
def pairs() -> Prompts:
    return prompts.random(planted.VOCAB, planted.TIME, seed=5)


@torch.no_grad()
def test_the_planted_model_repeats_what_it_read(pairs: Prompts) -> None:
    logits = planted.model()(pairs.clean)
    assert torch.equal(logits[:, -1].argmax(-1), pairs.answer)
    assert pairs.difference(logits).tolist() == pytest.approx([10] * 16, abs=1e-4)
    corrupted = pairs.difference(planted.model()(pairs.corrupted))
    assert corrupted.tolist() == pytest.approx([-10] * 16, abs=1e-4)


def test_random_prompts_differ_in_the_answers_first_place(pairs: Prompts) -> None:
    where = (pairs.clean != pairs.corrupted).nonzero()
    assert where[:, 0].tolist() == list(range(16))  # once in each row
    place = where[0, 1]
    assert torch.equal(pairs.clean[:, place], pairs.answer)
    assert torch.equal(pairs.corrupted[:, place], pairs.wrong)
    assert torch.equal(pairs.clean[:, place - 1], pairs.clean[:, -1])


def test_patching_recovers_the_planted_head(pairs: Prompts) -> None:
    found = {row["head"]: row["recovered"] for row in patching.heads(bench(pairs))}
    assert set(found) == planted.HEADS
    # the answer passes through the induction head alone: the head before it says what stood before
    # the answer, which corruption does not change, and what came behind it, which nobody asks
    assert found.pop(planted.INDUCTION) == pytest.approx(1, abs=1e-4)
    assert max(map(abs, found.values())) < 1e-4


def test_patching_says_where_the_answer_stands(pairs: Prompts) -> None:
    layers = ["trunk.stack.blocks.0", "trunk.stack.blocks.1"]
    first, last = patching.positions(bench(pairs), layers).values()
    place, end = int((pairs.clean[0] != pairs.corrupted[0]).nonzero()), len(first) - 1
    for values, where in ((first, place), (last, end)):
        assert values[where] == pytest.approx(1, abs=1e-4)
        assert max(abs(v) for i, v in enumerate(values) if i != where) < 1e-4


def bench(pairs: Prompts) -> patching.Bench:
    return patching.Bench(planted.model(), pairs)


@pytest.mark.parametrize("baseline", ["zero", "mean", "resample"])
def test_without_a_planted_head_the_behaviour_is_gone(baseline: str) -> None:
    asked = Asked(baseline=baseline, seed=5)  # type: ignore[arg-type]
    pairs = prompts.random(planted.VOCAB, planted.TIME, seed=5)
    model, sites = planted.model(), [path + HEADS for path in stream.mixers(planted.model())]
    usual = kept(model, pairs.clean, sites)
    means = {call: x.mean((0, 1)) for call, x in usual.items()}
    instead = ablation.replacements(usual, asked.baseline, asked.seed, means)
    found = ablation.effects(model, pairs, instead)
    assert set(found) == planted.HEADS
    for name, effects in found.items():
        planted_one = name in (planted.PREVIOUS, planted.INDUCTION)
        assert (float(effects.mean()) < -5) == planted_one, name
        assert planted_one or float(effects.abs().max()) < 1e-4


def test_an_effect_is_a_mean_over_prompts_with_its_interval() -> None:
    found = ablation.told(torch.arange(100.0), seed=0)
    assert found["effect"] == 49.5
    # the mean's standard error is sqrt((100^2 - 1) / 12) / 10 = 2.887
    assert found["low"] == pytest.approx(49.5 - 1.96 * 2.887, abs=0.4)
    assert found["high"] == pytest.approx(49.5 + 1.96 * 2.887, abs=0.4)
    assert ablation.told(torch.tensor([2.5]), seed=0) == {"effect": 2.5, "low": None, "high": None}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_is_put_back_changes_no_bit(kind: str) -> None:
    model = build(kind)
    before = model(IDS)
    sites = [
        *stream.layers(model),
        *stream.parts(model),
        *(path + HEADS for path in stream.mixers(model)),
    ]
    own = kept(model, IDS, sites)
    with changing(model, dict.fromkeys(sites, lambda site, x: own[site].clone())):
        assert torch.equal(model(IDS), before)
    with changing(model, dict.fromkeys(sites[:1], lambda site, x: x + 1.0)):
        assert not torch.equal(model(IDS), before)
    assert torch.equal(model(IDS), before)


class Letters:
    def encode(self, text: str) -> torch.Tensor:
        return torch.tensor([ord(letter) - ord("a") for letter in text])


def test_prompts_of_a_file(tmp_path) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text("prompts:\n- {clean: abca, corrupted: acca, answer: bx, wrong: c}\n")
    found = prompts.from_file(file, Letters(), 16)
    assert found.clean.tolist() == [[0, 1, 2, 0]]
    assert (found.answer.tolist(), found.wrong.tolist()) == ([1], [2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "has no list prompts"),
        ("prompts:\n- {clean: a}", "prompt 1 needs clean, corrupted, answer, wrong"),
        (
            "prompts:\n- {clean: ab, corrupted: abc, answer: a, wrong: b}",
            "need one number of tokens, at most 16. They have 1: 2 and 3",
        ),
        ("prompts:\n- {clean: ab, corrupted: ab, answer: '', wrong: b}", "has an empty answer"),
    ],
)
def test_what_is_no_prompt_is_one_clear_line(tmp_path, text: str, message: str) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        prompts.from_file(file, Letters(), 16)
