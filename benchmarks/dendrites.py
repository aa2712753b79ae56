"""Dendrites with the lateral coupling folded into the soma, against the two products as written.

    python benchmarks/dendrites.py

WiggleGPT's sizes (384 to 1536, two compartments), fp32, one thread; `train` is forward and
backward. The number of rows from which folding pays decides `FOLD` in espalier/nn/ffn/dendritic.py.
"""

from collections.abc import Callable
from functools import partial

import torch
from rounds import interleaved, page

from espalier.nn.ffn import dendritic
from espalier.nn.slots import Dims, reset
from espalier.nn.state import Pass

ROWS = (32, 128, 256, 1024)
NOW = Pass(torch.zeros(1, 1, dtype=torch.long))
DIMS = Dims(n_layer=4, n_embd=384, n_head=6, block_size=1024, vocab_size=1, bias=False)


def main() -> int:
    dendritic.FOLD = 10**9  # so that in eval mode nothing is folded
    soma = dendritic.DendriticConfig().dendritic(4 * DIMS.n_embd, DIMS)
    reset(soma, 0)
    lines = ["| rows | pass | as written | folded | folded / written |", "|---|---|---|---|---|"]
    for rows in ROWS:
        x = torch.randn(rows, DIMS.n_embd)
        for name, step in (("train", train), ("inference", infer)):
            sides: dict[str, Callable[[], object]] = {
                mode: partial(step, soma, x, mode) for mode in ("written", "folded")
            }
            found = interleaved(sides, threads=(1,), rounds=5, steps=2)
            written, folded = (1000 * found[mode][0] for mode in ("written", "folded"))
            lines.append(
                f"| {rows} | {name} | {written:.1f} ms | {folded:.1f} ms | {folded / written:.2f} |"
            )
    page("dendrites", "Lateral coupling folded into the soma, 384 to 1536, fp32, 1 thread", lines)
    return 0


def train(soma: dendritic.Dendritic, x: torch.Tensor, mode: str) -> None:
    soma.train(mode == "folded").zero_grad()
    soma(x.requires_grad_(), NOW).sum().backward()


@torch.no_grad()
def infer(soma: dendritic.Dendritic, x: torch.Tensor, mode: str) -> None:
    soma.train(mode == "folded")(x, NOW)


if __name__ == "__main__":
    raise SystemExit(main())
