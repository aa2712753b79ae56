"""What a step costs, in counts: operators, bytes, waits, modules. Never seconds.

A ceiling is the count of the day that it was written, and a little more. One that is broken on
purpose is raised with its reason; one that is far above today's count is lowered.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from espalier.engine.generate import Generation, Options
from espalier.engine.weights import pack
from espalier.experiment import Experiment, load
from espalier.native.build import why_not
from espalier.nn.gpt import make
from espalier.train import setup

WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten._assert_async")


class Tally(TorchDispatchMode):
    """Counts operators that compute or move something, and the bytes of what they make."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = Counter[str]()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.calls[str(func.overloadpacket)] += 1
        given = {item.untyped_storage()._cdata for item in tensors((args, kwargs))}
        for item in tensors(made):
            if item.untyped_storage()._cdata not in given:
                self.bytes += item.untyped_storage().nbytes()
        return made

    @property
    def total(self) -> int:
        return sum(self.calls.values())

    @property
    def waits(self) -> int:
        """Calls that a device's host has to wait for."""
        return sum(self.calls[name] for name in WAITS)


def tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def counted(step: Callable[[], object]) -> Tally:
    with Tally() as tally:
        step()
    return tally


@pytest.fixture
def plan() -> Experiment:
    """nanoGPT's CPU run: 4 layers of 128, 12 windows of 64, in bf16 wherever the test runs."""
    return load("shakespeare-char-cpu", ["model.vocab_size=65", "train.dtype=bfloat16"])


@pytest.mark.skipif(why_not() is not None, reason=f"kernels: {why_not()}")
def test_a_training_step_makes_few_calls_and_waits_twice(plan: Experiment) -> None:
    model = make(plan.model, seed=0).train()
    stepper = setup.stepper(model, plan.model, plan.train, 12, "cpu")
    batch = torch.zeros(12, 64, dtype=torch.long), torch.ones(12, 64, dtype=torch.long)
    stepper(*batch, 1e-3)  # the first makes the optimizer's moments
    tally = counted(lambda: stepper(*batch, 1e-3))
    assert tally.total <= 545  # 520
    assert tally.waits <= 2  # the number of targets, and whether the step was finite
    assert tally.bytes <= 56e6  # 53.6


@pytest.mark.parametrize(
    ("weights", "calls", "made"), [("float32", 95, 44e3), ("bf16", 90, 43e3), (None, 297, 50e3)]
)
def test_a_decoding_step_makes_few_calls_and_every_step_the_same(
    plan: Experiment, weights: Literal["float32", "bf16"] | None, calls: int, made: float
) -> None:
    if weights and why_not() is not None:
        pytest.skip(f"kernels: {why_not()}")
    model = make(plan.model, seed=0)
    growing = Generation(pack(model, weights) if weights else model, 64, [[1, 2, 3]], Options(60))
    growing.step()  # reads the prompt
    tallies = [counted(growing.step) for _ in range(50)]
    assert tallies[0].total <= calls
    assert tallies[0].bytes <= made
    assert tallies[0].waits <= 1  # for the token
    same = {(tally.total, tally.bytes, tally.waits) for tally in tallies}
    assert len(same) == 1


UNTIL_TORCH = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(len(sys.modules), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Watch())
from espalier.cli import main
main(sys.argv[1:])
print(len(sys.modules))
"""


@pytest.mark.parametrize("line", [["--help"], ["train", "shakespeare-char-cpu"]])
def test_few_modules_are_imported_before_torch(line: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNTIL_TORCH, *line], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[-1]) <= 290  # 253 and 247 in Python 3.11
