"""What a mixer remembers, and whether it can recall: seven in place of one another.

    python examples/attention.py [--steps 300] [--facts 8]

The task: facts, each a token that stands for a key and its value, then one of the keys; what was
its value? Guessing gets 1 in 4. Nothing is said of positions, which do not matter here. `remembers`
is what generation keeps for a row of 1,024 tokens in a model of two layers: attention keeps all of
them, MLA a latent of each, the others a state of fixed size.
"""

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F

from espalier.config import decode, encode
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.nn.state import allocate, leaves
from espalier.tree import merge

KEYS, VALUES = 16, 4
KINDS: dict[str, dict[str, object]] = {
    "causal": {},
    "off-by-one": {"off_by_one": "head"},
    "infinite": {"name": "infinite", "n_head": 3, "qk_width": 8, "v_width": 24, "join": "sum"},
    "mla": {"name": "mla", "latent": 16, "rotary": 4},
    "linear": {"name": "linear"},
    "elementwise": {"name": "elementwise_linear"},
    "ssm": {"name": "ssm", "head_width": 32, "state": 16},
}


def model(kind: str) -> GPT:
    sizes = {"n_layer": 2, "n_embd": 64, "n_head": 4, "block_size": 1024}
    tree = sizes | {
        "vocab_size": KEYS * VALUES + KEYS,
        "position": "none",
        "block": {"attention": KINDS[kind]},
    }
    return make(decode(GPTConfig, merge(encode(GPTConfig()), tree)), seed=0)


def questions(rows: int, facts: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Token ids (rows, facts + 1) and the value that is asked for (rows,)."""
    keys = torch.rand(rows, KEYS, generator=draw).argsort(1)[:, :facts]
    values = torch.randint(VALUES, (rows, facts), generator=draw)
    asked = torch.randint(facts, (rows, 1), generator=draw)
    question = KEYS * VALUES + keys.gather(1, asked)
    return torch.cat([keys * VALUES + values, question], 1), values.gather(1, asked)[:, 0]


def answers(net: GPT, ids: Tensor) -> Tensor:
    return net(ids)[:, -1, :VALUES]


def learn(kind: str, steps: int, facts: int) -> GPT:
    net, draw = model(kind), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(steps):
        ids, wanted = questions(64, facts, draw)
        optimizer.zero_grad()
        loss = F.cross_entropy(answers(net, ids), wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return net.eval()


@torch.no_grad()
def recalled(net: GPT, facts: int) -> float:
    """Share of a thousand fresh questions that is answered rightly."""
    ids, wanted = questions(1000, facts, torch.Generator().manual_seed(2))
    return float((answers(net, ids).argmax(-1) == wanted).float().mean())


def remembers(net: GPT, tokens: int = 1024) -> int:
    """Bytes that generation keeps for one row; positions are counted with keys and values."""
    states = leaves(allocate(net, 1, tokens, "cpu"))
    return sum(t.numel() * t.element_size() for state in states for t in state.tensors())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--facts", type=int, default=8)
    args = parser.parse_args(arguments)
    print(f"{'attention':<12} {'parameters':>10} {'remembers':>12} {'recalled':>9}")
    for kind in KINDS:
        net = learn(kind, args.steps, args.facts)
        count = sum(parameter.numel() for parameter in net.parameters())
        share = recalled(net, args.facts)
        print(f"{kind:<12} {count:>10,} {remembers(net):>10,} B {share:>8.0%}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
