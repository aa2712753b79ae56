"""How much of a forward pass each parameter is multiplied in, worked out by hand."""

from typing import Any

import pytest

from espalier.config import decode, refine
from espalier.cost import count
from espalier.cost.products import operations
from espalier.nn.gpt import GPTConfig, sketch

SIZES = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 8, "vocab_size": 11, "bias": False}
SMALL = decode(GPTConfig, SIZES)
FFN = "trunk.stack.blocks.0.ffn"


def found(**tree: Any) -> dict[str, float]:
    return operations(sketch(refine(SMALL, tree)), window=8)


def test_with_attentions_own_products_they_are_all_that_is_counted() -> None:
    model = sketch(SMALL)
    attention = 2 * 2 * 8 * 16  # of a query with 8 keys, and of its weights with 8 values
    assert sum(operations(model, 8).values()) + attention == count.flops(model, 8).forward


@pytest.mark.parametrize("linear", ["dense", "bitnet", "fake_quantised"])
def test_a_map_is_two_operations_for_each_weight_under_whatever_rounding(linear: str) -> None:
    ffn = {"name": "mlp", "width": 24, "linear": linear}
    assert found(block={"ffn": ffn})[f"{FFN}.up.weight"] == 2 * 24 * 16


def test_of_a_mixture_only_what_is_asked_counts() -> None:
    ffn = {"name": "moe", "experts": 8, "top": 2, "width": 24}
    work = found(block={"ffn": ffn})
    assert work[f"{FFN}.experts.up.weight"] == 2 * (2 * 24 * 16)
    assert work[f"{FFN}.router.choose.weight"] == 2 * 8 * 16  # all are asked how well they fit


def test_a_table_that_is_looked_up_costs_nothing_and_one_that_is_read_again_does() -> None:
    assert found()["trunk.embed.weight"] == 2 * 11 * 16
    work = found(head="untied")
    assert (work["trunk.embed.weight"], work["head.weight"]) == (0, 2 * 11 * 16)
    assert work["trunk.position.weight"] == 0
