"""The laws that every part keeps, or is exempt from for a reason that is proven to be needed.

| law | device, dtype | tolerance |
|---|---|---|
| steps, packed | CPU, fp32 | 3e-5 + 1e-4 relative |
| ragged, rows, batch | CPU, fp32 | 1e-5 + 1e-4 relative |
| float64 | CPU, fp32 against float64 | 1e-4 of the largest logit; 5 % where a part `rounds` |
| bfloat16 | CPU, autocast | 5 % of the largest logit |
| reference, checkpointed | CPU, fp32 | 1e-5 + 1e-4 relative |
| saved, seeded, meta, round trip | CPU | exact |
| compiles | CPU, eager backend | as reference, one graph; a decoding step as steps |

Where a part `rounds`, the last bit of a sum may move a number by a whole step, so that all laws but
finite, float64, bfloat16 and the exact ones are tested in float64.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional as F

from espalier.config import decode, digest, encode
from espalier.native import training
from espalier.nn.gpt import GPT, GPTConfig, sketch
from espalier.nn.slots import Part, roles, splits, unused
from espalier.nn.state import Pass, allocate, at, leaves, pick
from espalier.nn.vision.layers import Conv
from espalier.train.checkpoint import fill, tensors
from tests.contract.harness import IDS, TIME, Case, cases, exemptions, rounds, same

LENGTH = 32
CASES = cases()


def law(check: Callable[[Case], None]) -> Callable[..., Any]:
    """Run a law on every case; where a part is exempt, prove that the law really fails."""
    name = check.__name__.removeprefix("test_")

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
    def run(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        for kernel in training.KERNELS:
            monkeypatch.setattr(kernel, "ready", case.native)
        reason = exemptions(sketch(case.config())).get(name)
        if reason is None:
            check(case)
            return
        with pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
            check(case)
        pytest.skip(f"exempt, and needs to be: {reason}")

    run.__doc__ = check.__doc__
    return run


@law
def test_round_trip(case: Case) -> None:
    config = case.config()
    again = decode(GPTConfig, encode(config))
    assert again == config
    assert digest(again) == digest(config)


@law
def test_finite(case: Case) -> None:
    model = case.build()
    loss = _loss(model, at(IDS))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@law
def test_no_look_ahead(case: Case) -> None:
    model = case.perturbed()
    seen: list[Tensor] = []
    model.trunk.embed.register_forward_hook(lambda _m, _i, out: seen.append(out) or out)
    hidden = model.trunk(IDS, at(IDS))
    (grad,) = torch.autograd.grad(hidden[:, 7].square().sum(), seen[0])
    assert grad[:, :8].abs().amax((0, 2)).sum() > 0
    assert grad[:, 8:].abs().max() == 0


@law
def test_gradient(case: Case) -> None:
    model = case.perturbed()
    for shift in range(3):
        ids = (IDS + 7 * shift) % 50
        _loss(model, at(ids), ids).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == unused(model)


@law
@torch.no_grad()
def test_batch(case: Case) -> None:
    model = case.perturbed().eval()
    together = model(IDS)
    for row in range(3):
        same(model(IDS[row : row + 1])[0], together[row])


@law
@torch.no_grad()
def test_steps(case: Case) -> None:
    """Token by token, in chunks, or at once: the same logits as one full pass."""
    model = case.perturbed().eval()
    full = model(IDS)
    for cuts in ([1] * TIME, [7, 1, 9, 3], [TIME], [13] + [1] * 7):
        states, out, start = allocate(model, 3, LENGTH, "cpu"), [], 0
        for n in cuts:
            now = Pass(_span(start, n), states, LENGTH, fresh=start == 0)
            out.append(model(IDS[:, start : start + n], now))
            start += n
        same(torch.cat(out, 1), full, atol=3e-5)


@law
@torch.no_grad()
def test_ragged(case: Case) -> None:
    """Rows padded at the right, with later chunks ragged or idle, equal each row alone."""
    model = case.perturbed().eval()
    lengths = torch.tensor([9, 2, 14])
    positions = _span(0, 14)
    positions = torch.where(positions < lengths[:, None], positions, -1)
    states = allocate(model, 3, LENGTH, "cpu")
    model(torch.where(positions >= 0, IDS[:, :14], 7), Pass(positions, states, LENGTH))
    more = torch.tensor([[9, 10, 11], [2, -1, -1], [-1, -1, -1]])
    ids = torch.where(more >= 0, IDS.gather(1, more.clamp(min=0)), 7)
    model(ids, Pass(more, states, LENGTH, fresh=False))
    here = torch.tensor([12, 3, 14])
    got = model(IDS.gather(1, here[:, None]), Pass(here[:, None], states, LENGTH, fresh=False))
    for row, end in enumerate(here.tolist()):
        same(got[row, 0], model(IDS[row : row + 1, : end + 1])[0, -1])


@law
@torch.no_grad()
def test_rows(case: Case) -> None:
    """Many samples from one prefill; a cleared row starts again."""
    model = case.perturbed().eval()
    states = allocate(model, 1, LENGTH, "cpu")
    model(IDS[:1, :9], Pass(_span(0, 9)[:1], states, LENGTH))
    many = pick(states, torch.tensor([0, 0, 0]))
    got = model(IDS[:, 9:10], Pass(torch.full((3, 1), 9), many, LENGTH, fresh=False))
    for row in range(3):
        alone = torch.cat([IDS[:1, :9], IDS[row : row + 1, 9:10]], 1)
        same(got[row, 0], model(alone)[0, -1])
    for state in leaves(many):
        state.clear(torch.tensor([1]))
    positions = torch.full((3, 9), -1)
    positions[1] = torch.arange(9)
    got = model(IDS[[0, 2, 0], :9], Pass(positions, many, LENGTH, fresh=False))
    same(got[1], model(IDS[2:, :9])[0])


@law
@torch.no_grad()
def test_packed(case: Case) -> None:
    """Documents packed in one row equal each document alone."""
    model = case.perturbed().eval()
    lengths = [6, 9, 5]
    positions = torch.cat([torch.arange(n) for n in lengths]).expand(3, -1)
    got = model(IDS, Pass(positions, packed=True))
    same(got, torch.cat([model(ids) for ids in IDS.split(lengths, 1)], 1), atol=3e-5)


@law
def test_meta(case: Case) -> None:
    """The sketch has every shape of the real model and no memory."""
    drawn, real = sketch(case.config()).state_dict(), case.build().state_dict()
    assert {k: v.shape for k, v in drawn.items()} == {k: v.shape for k, v in real.items()}
    assert all(tensor.is_meta for tensor in drawn.values())


@law
def test_saved(case: Case) -> None:
    model = case.perturbed()
    other = case.build(seed=9).to(next(model.parameters()))
    fill(tensors(other), load(save(tensors(model))), "the copy")
    assert torch.equal(model.eval()(IDS), other.eval()(IDS))


@law
def test_seeded(case: Case) -> None:
    """A seed decides every tensor, and torch's own stream stands still."""
    before = torch.random.get_rng_state()
    first, again, other = (case.build(seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert all(tensor.isfinite().all() for tensor in first.values())


@law
@torch.no_grad()
def test_float64(case: Case) -> None:
    model = case.perturbed().float().eval()
    exact = copy.deepcopy(model).double()(IDS)
    near = 0.05 if rounds(model) else 1e-4
    assert (model(IDS) - exact).abs().max() < near * exact.abs().max()


@law
@torch.no_grad()
def test_bfloat16(case: Case) -> None:
    model = case.build().eval()
    exact = model(IDS)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(IDS).float()
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()


@law
@torch.no_grad()
def test_reference(case: Case) -> None:
    """A part with a fast path (`fused`) gives what its reference path gives."""
    model = case.perturbed().eval()
    fast = model(IDS)
    for part in model.modules():
        if hasattr(part, "fused"):
            part.fused = False
    same(model(IDS), fast)


@law
def test_checkpointed(case: Case) -> None:
    """Recomputing activations in the backward pass changes no gradient."""
    model = case.perturbed()
    plain = _gradients(model, at(IDS))
    again = _gradients(model, at(IDS, checkpoint=True))
    for name, grad in plain.items():
        same(again[name], grad)


@law
def test_roles(case: Case) -> None:
    model = case.build()
    found = roles(model)
    assert set(found) == {name for name, _ in model.named_parameters()}
    vectors = [n for n, p in model.named_parameters() if p.ndim < 2 and found[n] != "vector"]
    assert vectors == []


@law
def test_matrices(case: Case) -> None:
    """What counts as a matrix is one, or a convolution, or says which rows are."""
    model = sketch(case.config())
    role, split = roles(model), splits(model)
    lumped = [
        name
        for path, module in model.named_modules()
        for name, p in module.named_parameters(path, recurse=False)
        if role[name] == "matrix" and p.ndim > 2 and not (name in split or isinstance(module, Conv))
    ]
    assert lumped == []


@law
def test_per_feature(case: Case) -> None:
    """What has a number for each hidden feature says so: pruning takes it out with the feature."""
    narrow, wide = (_elementwise(case, width) for width in (24, 48))
    grown = {name for name in wide if wide[name][0] != narrow[name][0]}
    assert [name for name in sorted(grown) if not wide[name][1]] == []


def _elementwise(case: Case, width: int) -> dict[str, tuple[torch.Size, bool]]:
    """Tensors of parts without a matrix: their shapes at a width of the ffn, and if declared."""
    config = case.config()
    ffn = getattr(config.block, "ffn", None)
    if not hasattr(ffn, "width"):
        return {}
    with torch.device("meta"):
        made = ffn.model_copy(update={"width": width}).build(config.dims(), 0)
    return {
        f"{path}.{name}": (tensor.shape, name in part.per_feature)
        for path, part in made.named_modules()
        if isinstance(part, Part) and all(p.ndim < 2 for p in part.parameters(recurse=False))
        for name, tensor in (
            *part.named_parameters(recurse=False),
            *part.named_buffers(recurse=False),
        )
    }


@pytest.mark.compile
@law
def test_compiles(case: Case) -> None:
    """Training and a decoding step compile to one graph each and give the same numbers."""
    model = case.perturbed()
    want = _gradients(model, at(IDS))
    torch._dynamo.reset()
    step = torch.compile(_loss, fullgraph=True, backend="eager")
    model.zero_grad()
    torch.manual_seed(3)
    step(model, at(IDS)).backward()
    got = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert got.keys() == want.keys()
    for name, grad in got.items():
        same(grad, want[name])
    _compiles_one_step(model.eval())


@torch.no_grad()
def _compiles_one_step(model: GPT) -> None:
    full, states = model(IDS), allocate(model, 3, LENGTH, "cpu")
    model(IDS[:, :5], Pass(_span(0, 5), states, LENGTH))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    decode_step = torch.compile(_step, fullgraph=True, backend="eager")
    for p in range(5, 12):
        got = decode_step(model, IDS[:, p : p + 1].contiguous(), torch.full((3, 1), p), states)
        same(got[:, 0], full[:, p], atol=3e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def _step(model: GPT, ids: Tensor, positions: Tensor, states: list[object]) -> Tensor:
    return model(ids, Pass(positions, states, LENGTH, fresh=False))


def _span(start: int, count: int) -> Tensor:
    return torch.arange(start, start + count).expand(3, -1)


def _loss(model: GPT, now: Pass, ids: Tensor = IDS) -> Tensor:
    logits = model(ids, now)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    return loss + sum(now.losses.values())


def _gradients(model: GPT, now: Pass) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(3)  # parts may draw numbers in training
    _loss(model, now).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
