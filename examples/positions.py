"""Which ways of telling positions hold beyond the length that was trained on?

    python examples/positions.py [--steps 300] [--back 3]

The task is all position: say again the token that stood three places earlier, in a text of random
tokens. Models train on texts of 32 and are then asked at every place of texts of 96. Guessing gets
1 in 8. A table has never learned its rows past 32; angles and distances are a matter of degree.
"""

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F

from espalier.config import decode, encode
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.tree import merge

SHORT, LONG, TOKENS = 32, 96, 8
KINDS: dict[str, dict[str, object]] = {
    "learned": {"name": "learned"},
    "encoder": {"name": "encoder", "n_head": 2},
    "none": {"name": "none"},
    "rotary": {"name": "rotary"},
    "symmetric_rotary": {"name": "symmetric_rotary", "angles": 128},
    "alibi": {"name": "alibi"},
    "fire": {"name": "fire", "threshold": 16},
}


def model(kind: str) -> GPT:
    sizes = {"n_layer": 2, "n_embd": 64, "n_head": 4, "block_size": LONG, "vocab_size": TOKENS}
    tree = sizes | {"position": KINDS[kind]}
    return make(decode(GPTConfig, merge(encode(GPTConfig()), tree)), seed=0)


def texts(rows: int, length: int, draw: torch.Generator) -> Tensor:
    return torch.randint(TOKENS, (rows, length), generator=draw)


def learn(kind: str, steps: int, back: int) -> GPT:
    net, draw = model(kind), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(steps):
        ids = texts(32, SHORT, draw)
        optimizer.zero_grad()
        loss = F.cross_entropy(net(ids)[:, back:].flatten(0, 1), ids[:, :-back].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return net.eval()


@torch.no_grad()
def right(net: GPT, back: int) -> tuple[float, float]:
    """Share of right answers up to the length of training, and beyond it."""
    ids = texts(64, LONG, torch.Generator().manual_seed(2))
    hits = (net(ids)[:, back:].argmax(-1) == ids[:, :-back]).float()
    return float(hits[:, : SHORT - back].mean()), float(hits[:, SHORT - back :].mean())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--back", type=int, default=3)
    args = parser.parse_args(arguments)
    print(f"{'position':<18} {f'to {SHORT}':>7} {f'to {LONG}':>7}")
    for kind in KINDS:
        near, far = right(learn(kind, args.steps, args.back), args.back)
        print(f"{kind:<18} {near:>7.0%} {far:>7.0%}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
