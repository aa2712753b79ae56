"""A model whose weights are set by hand: it finds what followed a token before (induction).

Features: the token (one-hot), its position (one-hot), the token before it, the prediction.
"""

import math

import torch
from torch import Tensor

from espalier.config import decode
from espalier.nn.gpt import GPT, GPTConfig, make

VOCAB, TIME, WIDTH = 8, 16, 20  # width of a head
TOKEN, PLACE = slice(0, 8), slice(8, 24)
BEFORE, SAID = slice(24, 32), slice(32, 40)
SHARP = 40.0  # of a score that hits
PREVIOUS = "trunk.stack.blocks.0.attention:1"  # the heads that were planted
INDUCTION = "trunk.stack.blocks.1.attention:0"
HEADS = {f"trunk.stack.blocks.{layer}.attention:{head}" for layer in (0, 1) for head in (0, 1)}


def config() -> GPTConfig:
    tree = {
        "n_layer": 2, "n_embd": 2 * WIDTH, "n_head": 2, "block_size": TIME, "vocab_size": VOCAB,
        "block": {"name": "prenorm", "norm": "identity"}, "norm": "identity", "head": "untied",
        "bias": False,
    }  # fmt: skip
    return decode(GPTConfig, tree)


@torch.no_grad()
def model() -> GPT:
    made = make(config(), seed=0).eval()
    for parameter in made.parameters():
        parameter.zero_()
    embed, place = made.trunk.embed.weight, made.trunk.position.weight
    embed[:, TOKEN], place[:, PLACE] = torch.eye(VOCAB), torch.eye(TIME)
    made.head.weight[:, SAID] = 10 * torch.eye(VOCAB)
    beta = math.sqrt(SHARP * math.sqrt(WIDTH))
    first, second = (block.attention for block in made.trunk.stack.blocks)
    q, k, v = heads(first.qkv.weight, 1)
    q[:TIME, PLACE] = beta * torch.diag(torch.ones(TIME - 1), 1)  # position t asks for t - 1
    k[:TIME, PLACE] = beta * torch.eye(TIME)
    v[:VOCAB, TOKEN] = torch.eye(VOCAB)
    first.out.weight[BEFORE, WIDTH : WIDTH + VOCAB] = torch.eye(VOCAB)
    q, k, v = heads(second.qkv.weight, 0)
    q[:VOCAB, TOKEN] = beta * torch.eye(VOCAB)
    k[:VOCAB, BEFORE] = beta * torch.eye(VOCAB)
    k[:VOCAB, PLACE.start] = -beta  # nothing stands before the first token
    v[:VOCAB, TOKEN] = torch.eye(VOCAB)
    second.out.weight[SAID, :VOCAB] = torch.eye(VOCAB)
    return made


def heads(qkv: Tensor, head: int) -> list[Tensor]:
    """Rows of a head's queries, keys and values."""
    return [part[head * WIDTH : (head + 1) * WIDTH] for part in qkv.chunk(3)]
