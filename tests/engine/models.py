"""Small models of every kind that generation must get right, and what they are held against."""

import torch

from espalier.config import decode, encode
from espalier.engine.window import Rule
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.tree import merge

BLOCK, VOCAB = 16, 29
KINDS = {
    "gpt2": {},
    "gqa-window-rotary": {
        "position": {"name": "rotary", "fraction": 0.5},
        "block": {"attention": {"n_kv_head": 2, "window": 5}},
    },
    "alibi": {"position": "alibi", "block": {"ffn": "glu", "norm": "rms"}},
    "qk-norm": {"position": "rotary", "block": {"attention": {"qk_norm": "rms"}}},
    "parallel": {"block": "parallel", "head": "untied", "position": "rotary"},
    "postnorm": {"block": "postnorm", "bias": False},
    "softcap": {
        "block": {"attention": {"softcap": 5.0, "window": 7}},
        "head": {"name": "tied", "softcap": 3.0},
        "position": "none",
    },
}


def build(kind: str) -> GPT:
    tree = {"n_layer": 2, "n_embd": 32, "n_head": 4, "block_size": BLOCK, "vocab_size": VOCAB}
    model = make(decode(GPTConfig, merge(encode(decode(GPTConfig, tree)), KINDS[kind])), seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # far from the start, where every token looks alike
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model.eval()


def slide(ids: list[int], rule: Rule) -> list[int]:
    """The window after these ids, by doing what the rule says, token by token."""
    window: list[int] = []
    for token in ids:
        window.append(token)
        if len(window) > BLOCK:
            window = window[rule.drop :]
    return window


@torch.no_grad()
def uncached(model: GPT, ids: list[int], rule: Rule) -> torch.Tensor:
    """Logits of the next token by a full pass over the rule's window."""
    return model(torch.tensor([slide(ids, rule)]))[0, -1]
