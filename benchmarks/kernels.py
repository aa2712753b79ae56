"""What each native training kernel is worth: a step with all of them, and with one of them off.

    python benchmarks/kernels.py [path=value ...]

The model is shakespeare-150s with dropout 0.1, on random tokens. With a kernel off, torch's own
operators do its work. Sides take turns, at their better number of threads; medians.
"""

import sys
from collections.abc import Callable

import torch
from rounds import interleaved, page

from espalier import experiment
from espalier.native.training import KERNELS
from espalier.nn.gpt import make
from espalier.train import setup


def main() -> None:
    plan = experiment.load(
        "shakespeare-150s", ["model.vocab_size=65", "model.dropout=0.1", *sys.argv[1:]]
    )
    rows, time = plan.data.batch_size, plan.model.block_size
    stepper = setup.stepper(make(plan.model, 1), plan.model, plan.train, rows, "cpu")
    draw = torch.Generator().manual_seed(1)
    ids, targets = (torch.randint(65, (rows, time), generator=draw) for _ in range(2))

    def without(off: object) -> Callable[[], object]:
        def step() -> object:
            for kernel in kernels:
                kernel.ready = kernel is not off
            return stepper(ids, targets, 1e-3)

        return step

    kernels = [kernel for kernel in KERNELS if kernel.ready]
    assert kernels, "no kernel could be built here"
    names = {kernel.__name__.rpartition(".")[2]: kernel for kernel in kernels}
    sides = {"all": without(None), **{name: without(kernel) for name, kernel in names.items()}}
    found = interleaved(sides, threads=(2,), rounds=5, steps=1)
    whole = found["all"][0]
    page(
        "kernels",
        "A training step on the CPU without one of its kernels",
        [
            f"`shakespeare-150s` with dropout 0.1: {1e3 * whole:.0f} ms a step with all kernels.",
            "",
            "| without | ms | ratio |",
            "|---|---|---|",
            *(
                f"| {name} | {1e3 * seconds:.0f} | {seconds / whole:.2f} |"
                for name, (seconds, _) in found.items()
            ),
        ],
    )


if __name__ == "__main__":
    main()
