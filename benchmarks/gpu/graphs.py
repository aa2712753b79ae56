"""Compiled training steps without a graph break, and generation from a recorded CUDA graph."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.measure import Row, attempt, difference, sibling, siblings, wait, within
from benchmarks.gpu.scale import Place, Scale
from espalier.engine.generate import Generation, Options, steppable
from espalier.engine.sampling import Sampling
from espalier.experiment import Experiment
from espalier.nn.gpt import GPT, make
from espalier.train.objective import MicroBatch, Objective

HALF = 5e-2
PROMPTS = [[1, 2, 3], [5, 6]]


def compiled(scale: Scale, place: Place) -> Iterator[Row]:
    """Loss and backward of each recipe's small sibling as one graph; how long the first takes."""
    for recipe, small in siblings(scale.recipes):
        yield attempt(recipe, partial(_compiled, small, scale))


def _compiled(small: Callable[[], Experiment], scale: Scale) -> Row:
    plan = small()
    torch._dynamo.reset()
    model = make(plan.model, plan.seed, scale.device).train()
    assert plan.model.vocab_size is not None
    objective = Objective(model, plan.train.loss.build(), plan.model.vocab_size)
    ids = torch.arange(4 * plan.model.block_size).view(4, -1).to(scale.device) % 256
    plain = _backward(objective, ids, scale.device)
    objective.whole = torch.compile(objective.whole, fullgraph=True, backend=scale.backend)
    start = time.perf_counter()
    found = _backward(objective, ids, scale.device)
    warm_up = time.perf_counter() - start
    row = within(
        loss=(difference(found[0], plain[0]), HALF), norm=(difference(found[1], plain[1]), HALF)
    )
    return {**row, "warm_up_s": warm_up}


def _backward(objective: Objective, ids: Tensor, device: str) -> tuple[Tensor, Tensor]:
    """The loss and the norm of all gradients."""
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        batch = MicroBatch(ids, ids.roll(-1, 1))
        loss = objective(batch, ids.numel(), ids.numel())
    loss.backward()
    grads = [p.grad for p in objective.model.parameters() if p.grad is not None]
    norm = torch.stack(torch._foreach_norm(grads)).norm()
    objective.model.zero_grad()
    wait(device)
    return loss.detach(), norm


def recorded(scale: Scale, place: Place) -> Iterator[Row]:
    """Greedy generation step by step, and from the recording of a step: the same logits."""
    for recipe, small in siblings(scale.recipes):
        yield attempt(recipe, partial(_whole_step, small, scale.device))
    name = "a part that waits for the host goes on unrecorded"
    yield attempt(name, partial(_waiting, scale.device))


def _whole_step(small: Callable[[], Experiment], device: str) -> Row:
    plan = small()
    model = make(plan.model, plan.seed, device)
    return _recorded(model, plan.model.block_size, device, int(steppable(model)))


def _waiting(device: str) -> Row:
    plan = sibling("gpt2")
    model = make(plan.model, plan.seed, device)
    model.trunk.embed.register_forward_hook(lambda _module, _given, out: out.sum().item() and None)
    return _recorded(model, plan.model.block_size, device, 0)


def _recorded(model: GPT, block_size: int, device: str, graphs: int) -> Row:
    plain, _ = _generate(model, block_size, record=False)
    if not device.startswith("cuda"):
        return {"ok": None, "why": "CUDA graphs need CUDA; generated without"}
    found, count = _generate(model, block_size, record=True)
    row = within(logits=(difference(found, plain), 1e-4))
    return {**row, "ok": row["ok"] and count == graphs, "graphs": count}


def _generate(model: GPT, block_size: int, *, record: bool) -> tuple[Tensor, int]:
    """Logits of every step, and how many graphs are in use at the end."""
    options = Options(24, sampling=Sampling(temperature=0), record=record)
    rows = Generation(model, block_size, PROMPTS, options)
    logits = torch.stack([step.logits for step in rows])
    return logits, int(rows._recorded is not None)
