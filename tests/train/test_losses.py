"""Losses by hand, in float64."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from espalier.config import decode, names, resolve
from espalier.errors import ConfigError, UserError
from espalier.fit import fit
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.train import objective
from espalier.train.loss.cross_entropy import CrossEntropyConfig, cross_entropy
from espalier.train.loss.distillation import DistillationConfig, distillation
from espalier.train.loss.focal import FocalConfig
from espalier.train.loss.top1 import Top1Config
from espalier.train.objective import Guided, MicroBatch, Objective
from espalier.train.slots import LossConfig
from tests.train import tiny

# probabilities (1/2, 1/4, 1/4) and (1/5, 3/5, 1/5); normalisers e^1 and e^0
LOGITS = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]]).double().log()
LOGITS[0] += 1
TARGETS = torch.tensor([0, 2, -1])
LOG2, LOG5 = math.log(2), math.log(5)


def loss(config: LossConfig) -> float:
    return float(config.build()(LOGITS, TARGETS))


def test_cross_entropy_without_options_is_the_plain_function() -> None:
    assert CrossEntropyConfig().build() is cross_entropy
    assert loss(CrossEntropyConfig()) == pytest.approx(LOG2 + LOG5)


def test_z_loss_adds_the_square_of_the_log_normaliser() -> None:
    assert loss(CrossEntropyConfig(z_loss=0.5)) == pytest.approx(LOG2 + LOG5 + 0.5)


def test_label_smoothing_spreads_its_share_over_all_tokens() -> None:
    first = 0.8 * LOG2 + 0.1 * (2 * LOG2) * 2
    second = 0.1 * LOG5 + 0.1 * math.log(5 / 3) + 0.8 * LOG5
    assert loss(CrossEntropyConfig(label_smoothing=0.3)) == pytest.approx(first + second)


def test_focal_weighs_by_what_is_missing() -> None:
    assert loss(FocalConfig(gamma=2)) == pytest.approx(0.25 * LOG2 + 0.64 * LOG5)
    assert loss(FocalConfig(gamma=0)) == pytest.approx(LOG2 + LOG5)


def test_top1_counts_what_is_known_by_half() -> None:
    assert loss(Top1Config()) == pytest.approx(0.5 * LOG2 + LOG5)


@pytest.mark.parametrize("name", names(LossConfig))
def test_a_loss_has_finite_gradients_and_none_from_masked_targets(name: str) -> None:
    logits = (40 * torch.eye(3)).requires_grad_()  # one sure and right, one sure and wrong
    resolve(LossConfig, name)().build()(logits, torch.tensor([0, 2, -1])).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[2].any()
    assert logits.grad[1, 1] > 0


def test_distillation_is_its_formula() -> None:
    teacher = torch.randn(3, 3).double()
    t, share = 2.0, 0.25
    p, q = (teacher / t).softmax(-1), (LOGITS / t).softmax(-1)
    apart = (p * (p / q).log()).sum(-1)[:2].sum()
    expected = 0.75 * (LOG2 + LOG5) + share * t**2 * float(apart)
    found = distillation(LOGITS, TARGETS, teacher, temperature=t, share=share)
    assert float(found) == pytest.approx(expected)


def test_a_student_equal_to_its_teacher_has_nothing_to_learn() -> None:
    logits = LOGITS.clone().requires_grad_()
    distillation(logits, TARGETS, LOGITS, temperature=3.0, share=1.0).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits))


def nets() -> tuple[GPT, GPT]:
    shape = {"n_head": 2, "block_size": 8, "vocab_size": 11}
    student = {**shape, "n_layer": 1, "n_embd": 16}
    other = {**shape, "n_layer": 2, "n_embd": 24, "head": "untied"}
    made = [make(decode(GPTConfig, size), i).double() for i, size in enumerate((student, other))]
    return made[0], made[1]


@pytest.mark.parametrize("chunk", [100, 5])
def test_a_guided_objective_is_the_loss_of_both_models_logits(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    student, teacher = nets()
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 11, (3, 8), generator=chance)
    targets = torch.randint(-1, 11, (3, 8), generator=chance)
    _, guide = DistillationConfig(teacher="x").guide()
    expected = guide(student(ids).flatten(0, 1), targets.flatten(), teacher(ids).flatten(0, 1))
    expected.backward()
    grads = {name: p.grad for name, p in student.named_parameters()}
    student.zero_grad()
    teacher.zero_grad()
    monkeypatch.setattr(objective, "chunk_length", lambda *sizes: chunk)
    found = Guided(student, teacher, guide, 11)(MicroBatch(ids, targets), 1, 1)
    found.backward()
    torch.testing.assert_close(found, expected)
    for name, p in student.named_parameters():
        torch.testing.assert_close(p.grad, grads[name])
    assert all(p.grad is None for p in teacher.parameters())


def test_an_objective_without_a_teacher_is_cross_entropy() -> None:
    student, _ = nets()
    ids = torch.arange(8)[None]
    targets: Tensor = (ids + 1) % 11
    found = Objective(student, cross_entropy, 11)(MicroBatch(ids, targets), 8, 8)
    torch.testing.assert_close(found, F.cross_entropy(student(ids)[0], targets[0]))


def test_a_student_learns_from_a_teacher_run(tmp_path: Path, corpus: Path) -> None:
    list(fit(tiny.experiment(corpus, "train.max_iters=10"), tmp_path / "teacher", device="cpu"))
    plan = tiny.experiment(
        corpus,
        "train.max_iters=3",
        f"train.loss={{name: distillation, teacher: {tmp_path / 'teacher'}}}",
        "model.n_layer=1",
    )
    told = list(fit(plan, tmp_path / "student", device="cpu"))
    assert told[-1].step == 3  # type: ignore[union-attr]


def test_a_teacher_must_speak_the_same_language(tmp_path: Path, corpus: Path) -> None:
    list(fit(tiny.experiment(corpus, "train.max_iters=1"), tmp_path / "teacher", device="cpu"))
    loss = f"train.loss={{name: distillation, teacher: {tmp_path / 'teacher'}}}"
    with pytest.raises(UserError, match=r"sees 8 tokens at a time: lower model\.block_size=16"):
        list(fit(tiny.experiment(corpus, loss, "model.block_size=16"), tmp_path / "a"))
    with pytest.raises(ConfigError, match=r"train.loss.teacher is not set"):
        list(fit(tiny.experiment(corpus, "train.loss=distillation"), tmp_path / "b"))
    spec = tmp_path / "teacher" / "tokenizer.json"
    spec.write_text(spec.read_text("utf-8").replace('"abc', '"bac'), "utf-8")
    with pytest.raises(UserError, match="has another tokenizer than"):
        list(fit(tiny.experiment(corpus, loss), tmp_path / "c"))
