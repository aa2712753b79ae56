"""Several ranks on this machine, and what each of them does in tests/train/test_parallel.py.

python -m tests.train.together gradients|parts|runs FOLDER  # as torchrun would start it
"""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from espalier.config import decode, names
from espalier.fit import fit
from espalier.nn.gpt import GPTConfig, make
from espalier.train import events, setup
from espalier.train.parallel.pieces import stretch
from espalier.train.parallel.ranks import ALONE, here, joined
from espalier.train.settings import TrainConfig
from espalier.train.slots import OptimizerConfig
from espalier.train.steps import Stepper
from tests.conftest import ROOT
from tests.contract import harness
from tests.train import tiny

TIMEOUT = 900  # seconds, on a machine that has much else to do
FEW = ("train.max_iters=50", "train.eval_interval=25", "train.save_interval=25")
ROWS, TIME, VOCABULARY = 8, 8, 11

# What FSDP2 has to get right: a table that stands in embedding and head, layers that run twice or
# are one, scalars, losses of parts, layers that are recomputed.
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scalars": {"block": {"name": "prenorm", "norm": "dyt"}, "head": "untied", "bias": False},
    "shared": {"stack": "shared"},
    "halves": {"stack": {"name": "shared", "block": None, "attention": {"size": 3}}},
    "feedback": {"stack": {"name": "feedback", "passes": 2, "links": [[2, 0]]}},
    "experts": {"block": {"name": "prenorm", "ffn": "moe"}},
}

# All but bridge, which fsdp refuses, and sophia_g, which draws.
OPTIMIZERS = sorted({*names(OptimizerConfig)} - {"bridge", "sophia_g"})


def launch(count: int, *words: str) -> list[subprocess.Popen[str]]:
    """Start `count` ranks of `python WORDS` here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    common = {**os.environ, **place, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return [
        subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def work(count: int, what: str, folder: Path) -> dict[str, Any]:
    """What `count` ranks find out."""
    ranks = launch(count, "-m", "tests.train.together", what, str(folder))
    said = [rank.communicate(timeout=TIMEOUT) for rank in ranks]
    assert all(rank.returncode == 0 for rank in ranks), said
    found: dict[str, Any] = json.loads((folder / f"{what}.json").read_text("utf-8"))
    return found


def batch(vocabulary: int = VOCABULARY) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows whose targets are dealt out unevenly."""
    chance = torch.Generator().manual_seed(3)
    ids = torch.randint(vocabulary, (ROWS, TIME + 1), generator=chance)
    targets = ids[:, 1:].clone()
    targets[: ROWS // 2, 2:] = -1
    return ids[:, :-1].contiguous(), targets


def stepper(model: dict[str, Any], **train: Any) -> Stepper:
    """Of a small model in double precision, micro-batches of two rows."""
    shape = {"n_layer": 3, "n_head": 2, "n_embd": 10, "block_size": TIME}
    return stepper_of(decode(GPTConfig, {**shape, "vocab_size": VOCABULARY, **model}), **train)


def stepper_of(config: GPTConfig, **train: Any) -> Stepper:
    made = make(config, 1).double().train()
    settings = {"gradient_accumulation_steps": 4, "max_iters": 5, "dtype": "float32", **train}
    return setup.stepper(made, config, decode(TrainConfig, settings), 2, "cpu")


def gathered(found: Stepper, tensor: torch.Tensor) -> torch.Tensor:
    """A weight or a gradient with the rows of all ranks."""
    mine, ranks = tensor.detach().clone(), found.spread.ranks
    if not found.spread.in_pieces or mine.ndim == 0:
        return mine
    rows = ranks.total(len(mine))
    whole = mine.new_zeros(rows, *mine.shape[1:])
    whole[stretch(rows, ranks.rank, ranks.count)] = mine
    return ranks.sum(whole)


def backward(found: Stepper, vocabulary: int = VOCABULARY) -> dict[str, Any]:
    """Loss, norm and gradients of the batch, of which each rank has its rows."""
    (ids, targets), ranks = batch(vocabulary), found.spread.ranks
    mine = slice(ranks.rank * ROWS // ranks.count, (ranks.rank + 1) * ROWS // ranks.count)
    loss = found.backward(ids[mine], targets[mine])
    told = {"loss": loss, "norm": found._norm()}
    named = found.spread.parameters.items()  # a model that reads images has some for nothing
    return told | {name: gathered(found, p.grad) for name, p in named if p.grad is not None}


def worst(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of any number."""
    assert one.keys() == other.keys()
    return max(float((one[key] - other[key]).abs().max()) for key in one)


def gradients(folder: Path) -> dict[str, Any]:
    """The largest difference from one process, of any number, by way and model."""
    torch.set_default_dtype(torch.float64)
    found: dict[str, Any] = {}
    for name, model in MODELS.items():
        with mock.patch("espalier.train.parallel.spread.here", return_value=ALONE):
            alone = backward(stepper(model))
        recomputed = {"checkpoint_activations": True} if name == "plain" else {}
        for way in ("ddp", "fsdp"):
            told = backward(stepper(model, parallel=way, **recomputed))
            found[f"{way} {name}"] = worst(told, alone)
    return found | {"meetings": meetings(), "updates": updates()}


def updated(**train: Any) -> dict[str, Any]:
    """The weights after three updates."""
    found, (ids, targets) = stepper({"block": {"name": "prenorm", "norm": "dyt"}}, **train), batch()
    ranks = found.spread.ranks
    mine = slice(ranks.rank * ROWS // ranks.count, (ranks.rank + 1) * ROWS // ranks.count)
    for _ in range(3):
        found(ids[mine], targets[mine], 1e-2)
    return {name: gathered(found, p) for name, p in found.spread.parameters.items()}


def updates() -> dict[str, float]:
    """The largest difference of a weight from one process', by way and optimizer."""
    torch.set_default_dtype(torch.float32)  # of step counts, as fused kernels want them
    found = {}
    for name in OPTIMIZERS:
        with mock.patch("espalier.train.parallel.spread.here", return_value=ALONE):
            alone = updated(optimizer=name, grad_clip=0.0)
        if name == "soap":  # eigenvectors of a singular matrix are anybody's: ddp is the measure
            alone = updated(optimizer=name, grad_clip=0.0, parallel="ddp")
        for way in ("ddp", "fsdp"):
            found[f"{way} {name}"] = worst(
                updated(optimizer=name, grad_clip=0.0, parallel=way), alone
            )
    return found


def parts(folder: Path) -> dict[str, Any]:
    """The same for every part of the contract suite, but for those that draw as they compute."""
    torch.set_default_dtype(torch.float64)
    found: dict[str, Any] = {}
    for case in [case for case in harness.cases() if not case.native]:
        config = case.config()
        size = config.vocab_size or VOCABULARY
        with mock.patch("espalier.train.parallel.spread.here", return_value=ALONE):
            alone, again = stepper_of(config), stepper_of(config)
            wanted = backward(alone, size)
            if worst(wanted, backward(again, size)):
                continue
        for way in ("ddp",) if config.front else ("ddp", "fsdp"):
            made = stepper_of(config, parallel=way, checkpoint_activations=False)
            found[f"{way} {case.label}"] = worst(backward(made, size), wanted)
    return found


def meetings() -> dict[str, Any]:
    """How often ranks meet over gradients in one update, by way and rows of a micro-batch."""
    found: dict[str, Any] = {}
    known = ("all_reduce", "reduce_scatter_tensor", "reduce_scatter_single")
    names = [name for name in known if hasattr(dist, name)]
    for way, rows in itertools.product(("ddp", "fsdp"), (1, 4)):
        made, (ids, targets) = stepper({}, parallel=way), batch()
        half = slice(here().rank * ROWS // 2, (here().rank + 1) * ROWS // 2)
        with contextlib.ExitStack() as stack:
            seen = [
                stack.enter_context(mock.patch.object(dist, name, wraps=getattr(dist, name)))
                for name in names
            ]
            made.backward(ids[half], targets[half], rows)
            found[f"{way} {rows}"] = [one.call_count for one in seen]
    return found


def stopping(seen: list[Any], at: int | None) -> Callable[[], bool]:
    def enough() -> bool:
        steps = [event.step for event in seen if isinstance(event, events.Stepped)]
        return at is not None and bool(steps) and steps[-1] >= at

    return enough


def train(out: Path, *overrides: str, stop_at: int | None = None) -> list[Any]:
    """Train, or go on; when `stop_at` updates are made, one rank alone asks to stop."""
    seen: list[Any] = []
    plan = tiny.experiment(out.parent / "corpus", *FEW, *overrides)
    at = stop_at if here().rank == here().count - 1 else None
    again = (out / "config.yaml").exists()
    here().tell("")  # nobody begins before all have looked
    for event in fit(plan, out, resume=again, device="cpu", interrupted=stopping(seen, at)):
        seen.append(event)  # noqa: PERF402 - `stopping` looks at it meanwhile
    return seen


def runs(folder: Path) -> dict[str, Any]:
    """Runs of ranks beside those of one process, all without dropout; and with it, interrupted."""
    plain = "model.dropout=0"
    for way in ("ddp", "fsdp"):
        wish = f"train.parallel={way}"
        train(folder / way, plain, wish, "train.sample.interval=50", "train.noise_scale=5")
        train(folder / f"{way}-then-one", plain, wish, stop_at=20)
        train(folder / f"one-then-{way}", plain, wish)
        train(folder / f"{way}-dropout", wish, "train.max_iters=12")
        train(folder / f"{way}-resumed", wish, "train.max_iters=12", stop_at=5)
        train(folder / f"{way}-resumed", wish, "train.max_iters=12")
        muon = (wish, "train.optimizer=muon", "train.max_iters=6", "train.dtype=float32")
        train(folder / f"{way}-muon", *muon, plain)
        train(folder / f"{way}-muon-resumed", *muon, plain, stop_at=3)
        train(folder / f"{way}-muon-resumed", *muon, plain)
    train(folder / "fsdp-then-ddp", plain, "train.parallel=fsdp", stop_at=3)
    train(folder / "fsdp-then-ddp", plain, "train.parallel=ddp", "train.max_iters=6")
    return {"ranks": here().count}


if __name__ == "__main__":
    torch.set_num_threads(1)
    told, place = sys.argv[1], Path(sys.argv[2])
    with joined("cpu"):
        result = {"gradients": gradients, "parts": parts, "runs": runs}[told](place)
        if here().leads:
            (place / f"{told}.json").write_text(json.dumps(result), encoding="utf-8")
