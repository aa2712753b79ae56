"""Where norms stand decides how the residual stream grows with depth (arXiv:2502.02732).

    python examples/block.py [--layers 48]

The root mean square of the stream behind each quarter of the layers, in a model that has learnt
nothing, with weights that are not scaled by depth. Without norms it explodes. With norms before
each half it grows as the square root of depth, by what the weights make of a row of size one; with
norms behind, by a row of size one whatever the weights are; norms after the sum hold it at one.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from espalier.config import decode
from espalier.nn.gpt import GPTConfig, make
from espalier.nn.state import at

PLACES: Mapping[str, Sequence[str]] = {
    "before": ["pre"],
    "before and behind": ["pre", "peri"],
    "behind": ["peri"],
    "after the sum": ["post"],
    "nowhere": [],
}


@torch.no_grad()
def sizes(places: Sequence[str], layers: int) -> list[float]:
    """The stream's root mean square behind each quarter of the layers."""
    block = {"name": "peri", "at": list(places), "norm": "rms"}
    fields: dict[str, Any] = {"n_layer": layers, "n_embd": 64, "n_head": 4, "block_size": 64}
    init = {"std": 0.08, "residual": "plain"}
    config = decode(GPTConfig, {**fields, "vocab_size": 100, "block": block, "init": init})
    model, seen = make(config, seed=0), list[Tensor]()
    for layer in model.trunk.stack.get_submodule("blocks").children():
        layer.register_forward_hook(lambda _m, _i, out: seen.append(out))
    ids = torch.randint(100, (4, 64), generator=torch.Generator().manual_seed(1))
    model.trunk(ids, at(ids))
    return [seen[layers * part // 4 - 1].square().mean().sqrt().item() for part in (1, 2, 3, 4)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=48)
    args = parser.parse_args(arguments)
    quarters = [args.layers * part // 4 for part in (1, 2, 3, 4)]
    print(f"{'norms':<18}" + "".join(f"{f'layer {n}':>11}" for n in quarters))
    for name, places in PLACES.items():
        print(f"{name:<18}" + "".join(f"{size:>11.3g}" for size in sizes(places, args.layers)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
