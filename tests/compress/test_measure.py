"""What zeros would save is counted where a product reads them."""

import pytest
import torch

from espalier.compress import measure
from espalier.compress.prunable import prunable
from espalier.compress.slots import Pruned
from espalier.config import refine
from espalier.nn.gpt import GPTConfig, make

WIDTH, TOKENS, LAYER = 16, 500, 12 * 16 * 16
SMALL = GPTConfig(n_layer=1, n_embd=WIDTH, n_head=2, block_size=8, vocab_size=TOKENS)


@pytest.mark.parametrize(
    ("head", "include", "multiplied"),
    [
        ("tied", {"embedding"}, LAYER + WIDTH * TOKENS),
        ("untied", {"embedding"}, LAYER),
        ("untied", {"head"}, LAYER + WIDTH * TOKENS),
        ("untied", {"head", "embedding"}, LAYER + WIDTH * TOKENS),
    ],
)
def test_zeros_of_a_table_that_is_only_looked_up_save_nothing(
    head: str, include: set[str], multiplied: int
) -> None:
    config = refine(SMALL, {"head": head})
    model = make(config, 1)
    weights = prunable(model, include).values()
    with torch.no_grad():
        for weight in weights:
            weight.zero_()
    every = sum(weight.numel() for weight in weights)
    found = measure.holdings(Pruned(model, config), every, include)["flops_per_token"]
    assert found["dense"] - found["skipping_zeros"] == 2 * multiplied


def saved(tree: dict[str, object], emptied: str) -> int:
    """Operations per token that zeros save where each weight with this in its name is zero."""
    config = refine(SMALL, tree)
    model = make(config, 1)
    weights = prunable(model, ())
    with torch.no_grad():
        for name, weight in weights.items():
            if emptied in name:
                weight.zero_()
    every = sum(weight.numel() for weight in weights.values())
    found = measure.holdings(Pruned(model, config), every, ())["flops_per_token"]
    return int(found["dense"] - found["skipping_zeros"])


def test_zeros_of_an_expert_save_what_the_tokens_sent_to_it_would_have_cost() -> None:
    ffn = {"name": "moe", "experts": 4, "top": 1, "width": 8}  # 4 * 8 * 16 up, as many down
    assert saved({"block": {"ffn": ffn}}, "experts.up") == 2 * 4 * 8 * 16 / 4
    ffn |= {"top": 3}
    assert saved({"block": {"ffn": ffn}}, "experts") == 2 * (2 * 4 * 8 * 16) * 3 / 4


def test_zeros_of_a_layer_that_is_called_twice_save_twice() -> None:
    twice = {"n_layer": 2, "stack": {"name": "shared", "block": {"size": 2}}}
    assert saved(twice, "ffn.up") == 2 * 2 * (4 * 16 * 16)
