"""One model, two corpora: a learned vector says which, and a saved one turns the model about.

    python examples/steering.py [--steps 300]

One corpus counts up, 0 1 2 ... 9 0, the other counts down. Trained on both with a vector for each
after the first layer, the model goes on from a single digit as the corpus it is told. Then the same
with activation vectors: another model reads the way to count in the text's first token. What its
first layer says on the one kind of text, minus what it says on the other, is added, and it turns.
"""

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F

from espalier.config import decode, encode
from espalier.engine import steer
from espalier.engine.generate import Options, generate
from espalier.engine.sampling import Sampling
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.nn.state import at
from espalier.tree import merge

TIME = 12
UP, DOWN = 1, -1
SIGN = {UP: 10, DOWN: 11}  # tokens after the ten digits
GREEDY = Options(6, sampling=Sampling(temperature=0))


def model(*, told: bool) -> GPT:
    sizes = {"n_layer": 2, "n_embd": 32, "n_head": 2, "block_size": 32, "vocab_size": 12}
    steering = {"name": "one_hot", "layer": 0, "sources": 2} if told else None
    tree = sizes | {"position": "rotary", "steering": steering}
    return make(decode(GPTConfig, merge(encode(GPTConfig()), tree)), seed=0)


def texts(rows: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Digits (rows, TIME + 1) and the corpus of each row: 0 counts up, 1 counts down."""
    source = torch.randint(2, (rows,), generator=draw)
    start = torch.randint(10, (rows, 1), generator=draw)
    way = torch.tensor([UP, DOWN])[source][:, None]
    return (start + way * torch.arange(TIME + 1)) % 10, source


def learn(steps: int, *, told: bool) -> GPT:
    """Trained with the corpus of each row in the pass, or in its first token."""
    net, draw = model(told=told), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(steps):
        ids, source = texts(32, draw)
        if not told:
            ids = torch.cat([SIGN[UP] + source[:, None], ids], 1)
        now = at(ids[:, :-1])
        now.source = source
        optimizer.zero_grad()
        loss = F.cross_entropy(net(ids[:, :-1], now).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return net.eval()


def count(way: int, start: int) -> list[int]:
    return [SIGN[way], *((start + way * i) % 10 for i in range(TIME))]


def as_corpus(net: GPT, source: int) -> list[int]:
    """What follows a 5 when the model is told the corpus."""
    with steer.choose(net, source):
        return generate(net, 32, [[5]], GREEDY)[0]


def turned(net: GPT, scale: float) -> list[int]:
    """What follows "up 5" when layer 0 is pushed from counting up towards counting down."""
    down, up = (
        sum((steer.listen(net, count(way, s), 0).values for s in range(10)), torch.zeros(32)) / 10
        for way in (DOWN, UP)
    )
    with steer.push(net, steer.Vector(down - up, 0), scale):
        return generate(net, 32, [[SIGN[UP], 5]], GREEDY)[0]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args(arguments)
    net = learn(args.steps, told=True)
    for source, name in enumerate(("up", "down")):
        print(f"told it counts {name:<5} 5 ->", *as_corpus(net, source))
    net = learn(args.steps, told=False)
    for scale in (0.0, 1.0, 2.0, 4.0):
        print(f"pushed by {scale:<9} up 5 ->", *turned(net, scale))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
