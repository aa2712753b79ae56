"""One update: the same gradients however a batch is cut, and none from numbers that are not."""

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor

from espalier.config import decode
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.train import objective, setup
from espalier.train.loss.cross_entropy import cross_entropy
from espalier.train.objective import MicroBatch, Objective
from espalier.train.precision import LossScale, Precision, choose
from espalier.train.settings import TrainConfig
from espalier.train.steps import DivergedError, Stepper

SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8, "vocab_size": 11}


def model(**more: object) -> GPT:
    return make(decode(GPTConfig, {**SHAPE, **more}), 1)


def stepper(net: GPT, rows: int = 4, **train: object) -> Stepper:
    shape = decode(GPTConfig, SHAPE)
    return setup.stepper(net, shape, decode(TrainConfig, train), rows, "cpu")


def data(rows: int, masked: float = 0.0) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 11, (rows, 8), generator=chance)
    targets = torch.randint(0, 11, (rows, 8), generator=chance)
    return ids, targets.masked_fill(torch.rand(rows, 8, generator=chance) < masked, -1)


def gradients(rows: int, masked: float, head: str = "tied") -> dict[str, Tensor]:
    net = model(head=head).double()
    found = stepper(net, rows)
    ids, targets = data(32, masked)
    targets[:5] = -1  # whole rows, so that some micro-batches have far fewer targets
    found.backward(ids, targets)
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("masked", [0.0, 0.7])
@pytest.mark.parametrize("rows", [8, 1])
def test_gradients_do_not_depend_on_how_a_ragged_batch_is_cut(rows: int, masked: float) -> None:
    whole, cut = gradients(32, masked), gradients(rows, masked)
    for name, grad in whole.items():
        torch.testing.assert_close(cut[name], grad, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("head", ["tied", "untied", {"name": "tied", "softcap": 5.0}])
def test_logits_in_chunks_give_the_same_gradients(
    monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    whole = gradients(16, 0.3, head)
    monkeypatch.setattr(objective, "chunk_length", lambda *sizes: 5)
    cut = gradients(16, 0.3, head)
    assert whole.keys() == cut.keys()
    for name, grad in whole.items():
        torch.testing.assert_close(cut[name], grad, rtol=1e-9, atol=1e-12)


@pytest.mark.compile
def test_a_compiled_step_scores_its_chunks_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def note(function: object) -> object:
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", note)
    monkeypatch.setattr(objective, "chunk_length", lambda *sizes: 5)
    net = model()
    found = stepper(net, 4)
    assert setup.compile_step(found, True, (4, 8), 1) == ""
    assert {function.__name__ for function in compiled} == {"_whole", "_trunk", "_scored"}
    ids, targets = data(4)
    eager = stepper(model(), 4).backward(ids, targets)
    torch.testing.assert_close(found.backward(ids, targets), eager)


def test_a_micro_batch_is_timed_without_a_trace() -> None:
    found = stepper(model(), 4)
    blank = torch.zeros(4, 8, dtype=torch.long)
    assert setup.eager_seconds(found, blank) > 0
    assert all(parameter.grad is None for parameter in found.parameters)


def test_the_loss_is_the_mean_over_targets_that_count() -> None:
    net = model()
    ids, targets = data(6, 0.5)
    loss = stepper(net, 2).backward(ids, targets)
    expected = torch.nn.functional.cross_entropy(
        net(ids).flatten(0, 1), targets.flatten(), ignore_index=-1
    )
    torch.testing.assert_close(loss, expected.detach())


def test_chunks_are_equal_and_only_made_when_logits_have_no_room() -> None:
    cpu = torch.device("cpu")
    assert objective.chunk_length(768, 65, cpu) == 768
    assert objective.chunk_length(4096, 50257, cpu) == 2048


def test_recomputing_layers_changes_no_gradient() -> None:
    nets = [model(), model()]
    for net, checkpoint in zip(nets, (False, True), strict=True):
        total = Objective(net, cross_entropy, 11, checkpoint=checkpoint)
        loss = total(MicroBatch(*data(4)), 32, 32)
        loss.backward()
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_clipping_bounds_the_norm_and_reports_it_unclipped() -> None:
    found = stepper(model(), grad_clip=0.5)
    seen: list[float] = []
    found.optimizer.step = lambda rate, scale, skip: seen.append(float(scale))  # type: ignore[method-assign]
    update = found(*data(4), 0.0)
    assert seen == pytest.approx([float(update.grad_norm) / 0.5], rel=1e-4)


def test_a_bad_update_is_skipped_and_three_in_a_row_end_the_run() -> None:
    net = model()
    found = stepper(net)
    before = [p.detach().clone() for p in net.parameters()]
    poisoned = net.trunk.stack.blocks[1].ffn.up.weight  # type: ignore[index, union-attr]
    hook = poisoned.register_hook(lambda grad: grad * float("nan"))
    found(*data(4), 0.1)
    found(*data(4), 0.1)
    found.guard.check(2)
    hook.remove()
    for p, old in zip(net.parameters(), before, strict=True):
        assert torch.equal(p, old)
    assert found.guard.skipped == 2
    found(*data(4), 0.1)
    assert found.guard.streak == 0
    poisoned.register_hook(lambda grad: grad * float("nan"))
    for _ in range(3):
        found(*data(4), 0.1)
    with pytest.raises(DivergedError, match=r"step 6: .* 3 times in a row .*blocks.1.ffn.up"):
        found.guard.check(6)
    assert all(p.isfinite().all() for p in net.parameters())


def test_an_fp16_overflow_halves_the_loss_scale_and_is_no_fault() -> None:
    net = model()
    found = stepper(net, dtype="float16")
    found.precision = Precision(torch.float32, "test", "cpu")  # no fp16 products on a CPU
    found.scale.value.fill_(1e38)
    for _ in range(4):
        found(*data(4), 0.01)
    assert float(found.scale.value) < 1e38
    found.guard.check(4)
    assert found.guard.skipped == 0


def test_the_loss_scale_is_kept() -> None:
    half = Precision(torch.float16, "", "cpu")
    one, other = LossScale(half, "cpu"), LossScale(half, "cpu")
    one.update(torch.tensor(1.0))
    one.update(torch.tensor(0.0))
    other.load(one.state())
    assert other.state() == {"value": 32768.0, "calm": 1}


def test_precision_says_why() -> None:
    assert choose("float32", "cpu", 1).reason == "as asked"
    assert choose("float16", "cuda", 1).reason == "as asked"
    assert choose("float16", "cpu", 1).reason == "as asked; slow on a CPU: train.dtype=auto"
    small = choose("auto", "cpu", 1000)
    assert small.dtype is torch.float32
    assert isinstance(small.autocast(), contextlib.nullcontext)
    large = choose("auto", "cpu", 10**7)
    assert "this CPU has" in large.reason or "this system" in large.reason


@pytest.mark.compile
def test_compile_falls_back_with_one_line_unless_required(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function: object) -> object:
        raise RuntimeError("no compiler here\nand more")

    monkeypatch.setattr(torch, "compile", refuse)
    found = stepper(model())
    said = setup.compile_step(found, True, (4, 8), 1)
    assert said == "torch.compile failed (RuntimeError: no compiler here); going on without"
    found(*data(4), 0.01)
    with pytest.raises(setup.MachineError, match="no compiler here"):
        setup.compile_step(found, "require", (4, 8), 1)


def test_auxiliary_losses_weigh_the_same_however_many_tokens_are_learnt() -> None:
    """They are means over all tokens, of which a masked batch has as many."""
    ids, targets = data(4)
    masked = targets.clone()
    masked[:, 1::2] = -1
    found = []
    for wanted in (targets, masked):
        stepped = stepper(model(), 2)
        stepped.objective._trunk = _with_auxiliary(stepped.objective._trunk)  # type: ignore[method-assign]
        stepped.objective.token_loss = lambda logits, _: 0.0 * logits.sum()
        stepped.objective.eager()
        found.append(float(stepped.backward(ids, wanted)))
    assert found == pytest.approx([0.25, 0.25])


def _with_auxiliary(trunk: Any) -> Any:
    def heard(*inputs: Any) -> Any:
        hidden, _, told = trunk(*inputs)
        return hidden, torch.tensor(0.25), told

    return heard
