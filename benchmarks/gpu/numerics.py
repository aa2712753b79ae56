"""Are the numbers right? Everything against float64 on the CPU."""

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.measure import Row, attempt, difference, sibling, siblings, within
from benchmarks.gpu.scale import Place, Scale
from espalier.experiment import Experiment, apply
from espalier.nn.gpt import GPT, make
from espalier.nn.state import at
from espalier.train import setup

# Largest relative differences from float64: of outputs and gradients, of losses after some steps.
SINGLE, HALF = 1e-4, 5e-2
LOSSES = {"float32": 1e-3, "bfloat16": 2e-2}
STEPS = 5


def parts(scale: Scale, place: Place) -> Iterator[Row]:
    """Every part of the contract suite, forward and backward."""
    from tests.contract.harness import IDS, cases

    for case in cases():
        if not case.native:  # CPU kernels
            yield attempt(case.label, partial(_part, case.perturbed, IDS, scale.device))


def _part(build: Callable[[], GPT], ids: Tensor, device: str) -> Row:
    model = build().eval()
    exact = _both_ways(copy.deepcopy(model).double(), ids)
    found = _both_ways(model.to(device), ids.to(device))
    backward = {name: _apart(found[1][name], grad, exact[1]) for name, grad in exact[1].items()}
    worst = max(backward, key=lambda name: backward[name])
    apart = difference(found[0], exact[0])
    row = within(forward=(apart, SINGLE), backward=(backward[worst], SINGLE))
    return row if row["ok"] else {**row, "why": f"{row['why']}; worst gradient: {worst}"}


def _both_ways(model: GPT, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    now = at(ids)
    logits = model(ids, now)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    (loss + sum(now.losses.values())).backward()
    return logits, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def _apart(found: Tensor, wanted: Tensor, every: dict[str, Tensor]) -> float:
    """The norm of the difference, over the gradient's own, or a thousandth of all where that is."""
    whole = torch.stack([grad.double().norm() for grad in every.values()]).norm()
    size = torch.maximum(wanted.double().norm(), whole / 1000)
    return float((found.cpu().double() - wanted.double()).norm() / size)


def recipes(scale: Scale, place: Place) -> Iterator[Row]:
    """Each recipe's small sibling: logits, and the losses of a few training steps."""
    yield {"name": "TF32", "ok": None, "why": _tf32()}
    for recipe, small in siblings(scale.recipes):
        yield attempt(recipe, partial(_recipe, small, scale.device))
    yield attempt("two equal runs, deterministic", partial(_twice, scale.device))
    for kernel in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
        yield attempt(f"attention by {kernel}", partial(_kernel, kernel, scale.device))


def _tf32() -> str:
    return f"float32 matmul precision is '{torch.get_float32_matmul_precision()}'"


def _tokens(plan: Experiment, rows: int = 4) -> Tensor:
    assert plan.model.vocab_size is not None
    draw = torch.Generator().manual_seed(1)
    size = (rows, plan.model.block_size + 1)
    return torch.randint(plan.model.vocab_size, size, generator=draw)


def _recipe(small: Callable[[], Experiment], device: str) -> Row:
    plan = small()
    ids = _tokens(plan)[:, :-1]
    model = make(plan.model, plan.seed).eval()
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(ids)
        model, ids = model.to(device), ids.to(device)
        single = difference(model(ids), exact)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            half = difference(model(ids), exact)
    wanted = train(plan, "cpu", "float32")
    apart = {name: difference(train(plan, device, name), wanted) for name in LOSSES}
    return within(
        logits_fp32=(single, SINGLE),
        logits_bf16=(half, HALF),
        losses_fp32=(apart["float32"], LOSSES["float32"]),
        losses_bf16=(apart["bfloat16"], LOSSES["bfloat16"]),
    )


def train(plan: Experiment, device: str, dtype: str) -> Tensor:
    """The losses of the first steps, by the house's own step."""
    plan = apply(plan, [f"train.dtype={dtype}"])
    model = make(plan.model, plan.seed, device).train()
    step = setup.stepper(model, plan.model, plan.train, 4, device)
    tokens = _tokens(plan)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    return torch.stack([step(inputs, targets, 1e-3).loss for _ in range(STEPS)])


def _twice(device: str) -> Row:
    plan = sibling("shakespeare-char", "train.deterministic=true", "model.dropout=0.2")
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        runs.append(train(plan, device, "bfloat16"))
    torch.use_deterministic_algorithms(False)
    return {"ok": torch.equal(*runs)}


def _kernel(kernel: str, device: str) -> Row:
    """One of torch's attention kernels in bf16, both ways."""
    draw = torch.Generator().manual_seed(1)
    inputs = [torch.randn(2, 4, 128, 64, generator=draw) for _ in range(3)]
    exact = _attention([x.double() for x in inputs])
    try:
        with sdpa_kernel([getattr(SDPBackend, kernel)]):
            found = _attention([x.to(device, torch.bfloat16) for x in inputs])
    except RuntimeError as error:
        if not str(error).startswith(("No available kernel", "No viable backend")):
            raise
        return {"ok": None, "why": "not on this device"}
    pairs = zip(("output", "dq", "dk", "dv"), found, exact, strict=True)
    return within(**{name: (difference(got, want), HALF) for name, got, want in pairs})


def _attention(inputs: list[Tensor]) -> list[Tensor]:
    q, k, v = (nn.Parameter(x) for x in inputs)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    out.square().sum().backward()
    return [out, *(x.grad for x in (q, k, v))]
