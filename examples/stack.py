"""The same six layers wired in seven ways: parameters, and how well a text is learnt.

    python examples/stack.py [--steps 100]

The text is a module of Python (argparse), in characters; losses are of its last tenth, in nats
per character. Shared layers cost as many operations as layers of their own, and fewer parameters.
"""

import argparse
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from espalier.config import decode
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.nn.state import at

WINDOW = 32
WIRED: Mapping[str, Any] = {
    "plain": "plain",
    "by size (AABBCC)": {"name": "shared", "block": {"size": 2}},
    "in sequence (ABCABC)": {"name": "shared", "block": {"sequence": 3}},
    "mirrored (ABCCBA)": {"name": "shared", "block": {"mirror": True}},
    "skips": "unet",
    "mixture of outputs": "mixed",
    "value embeddings": "value_embeddings",
}


def text() -> Tensor:
    """Ids: the code points below 128."""
    file = Path(sysconfig.get_paths()["stdlib"]) / "argparse.py"
    return torch.tensor([ord(c) for c in file.read_text(encoding="utf-8") if ord(c) < 128])


def loss(net: GPT, windows: Tensor) -> Tensor:
    logits = net(windows[:, :-1], at(windows[:, :-1]))
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def learn(stack: Any, steps: int) -> tuple[int, float]:
    """Parameters, and the loss on what was not trained on."""
    sizes = {"n_layer": 6, "n_embd": 32, "n_head": 4, "block_size": WINDOW, "vocab_size": 128}
    net, ids = make(decode(GPTConfig, {**sizes, "stack": stack}), seed=0), text()
    train, rest = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :]
    windows, draw = train.unfold(0, WINDOW + 1, 1), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(steps):
        chosen = torch.randint(len(windows), (32,), generator=draw)
        optimizer.zero_grad()
        loss(net, windows[chosen]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    net.eval()
    with torch.no_grad():
        held = loss(net, rest.unfold(0, WINDOW + 1, WINDOW)).item()
    return sum(p.numel() for p in net.parameters()), held


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args(arguments)
    print(f"{'layers':<22} {'parameters':>10} {'loss':>6}")
    for name, stack in WIRED.items():
        parameters, held = learn(stack, args.steps)
        print(f"{name:<22} {parameters:>10,} {held:>6.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
