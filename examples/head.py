"""One trunk, several heads: how far ahead a model sees (arXiv:2404.19737).

    python examples/head.py [--steps 150] [--tokens 4]

The text counts: digits of a number that grows by one, then a space. Each further head is trained to
say the token one step further away; what it gets right, speculative decoding could take for free.
Accuracies are of text that was not trained on; guessing gets 1 in 11.
"""

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F

from espalier.config import decode
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.nn.head.multi_token import MultiToken
from espalier.nn.state import at

LETTERS, WINDOW = "0123456789 ", 64


def model(tokens: int) -> GPT:
    head = {"name": "multi_token", "tokens": tokens, "weight": 0.3}
    sizes = {"n_layer": 2, "n_embd": 64, "n_head": 4, "block_size": WINDOW}
    return make(decode(GPTConfig, {**sizes, "vocab_size": len(LETTERS), "head": head}), seed=0)


def counting(rows: int, draw: torch.Generator) -> Tensor:
    """Ids (rows, WINDOW) of texts such as "417 418 419 ..."."""
    starts = torch.randint(100, 900, (rows,), generator=draw).tolist()
    texts = [" ".join(str(n) for n in range(start, start + WINDOW)) for start in starts]
    return torch.tensor([[LETTERS.index(c) for c in text[:WINDOW]] for text in texts])


def learn(steps: int, tokens: int) -> GPT:
    net, draw = model(tokens), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(steps):
        ids = counting(32, draw)
        now = at(ids)
        logits = net(ids, now)
        optimizer.zero_grad()
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        (loss + sum(now.losses.values())).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return net.eval()


@torch.no_grad()
def accuracies(net: GPT) -> list[float]:
    """Of each head, in the second half of a window."""
    ids = counting(64, torch.Generator().manual_seed(2))
    hidden = net.trunk(ids, at(ids))
    assert isinstance(net.head, MultiToken)
    found = []
    for ahead, logits in enumerate([net.head(hidden), *net.head.ahead(hidden, at(ids))], 1):
        right = logits[:, :-ahead].argmax(-1) == ids[:, ahead:]
        found.append(right[:, WINDOW // 2 :].float().mean().item())
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--tokens", type=int, default=4)
    args = parser.parse_args(arguments)
    print("tokens ahead  right")
    for ahead, right in enumerate(accuracies(learn(args.steps, args.tokens)), 1):
        print(f"{ahead:>12}  {right:>5.0%}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
