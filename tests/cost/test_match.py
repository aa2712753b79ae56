"""Models of equal cost: widths found are the nearest there are."""

import pytest

from espalier.config import refine
from espalier.cost.match import cost, match, nearest, solve
from espalier.errors import ConfigError
from espalier.nn.gpt import GPTConfig

SMALL = GPTConfig(n_layer=2, n_embd=64, n_head=4, block_size=32, vocab_size=65, bias=False)


def test_the_nearest_number_is_found_from_either_side():
    squares = lambda n: n * n  # noqa: E731
    assert [nearest(squares, target) for target in (1, 12, 13, 100, 3)] == [1, 3, 4, 10, 2]


@pytest.mark.parametrize("by", ["params", "flops"])
def test_a_model_matches_itself(by):
    found = match(SMALL, SMALL, by)
    assert (found.n_embd, found.n_head, found.block.ffn.width) == (64, 4, 256)


def test_parameters_by_hand():
    # one layer: 4 d^2 attention, 2 d w ffn, 2 d norms; 65 d tokens, 32 d positions, d last norm
    like = refine(SMALL, {"block": {"ffn": {"width": 1000}}})
    target = 2 * (4 * 64**2 + 2 * 64 * 1000 + 128) + 98 * 64
    assert cost(like, "params") == target
    found = solve(SMALL, like, "params")
    d, w = found.config.n_embd, found.config.block.ffn.width
    assert d % 16 == 0
    assert found.cost == 2 * (4 * d * d + 2 * d * w + 2 * d) + 98 * d
    assert abs(found.cost - target) <= 2 * d  # half of what one more hidden feature costs
    assert found.residual == pytest.approx(found.cost / target - 1)


def test_vocabulary_and_window_are_those_of_the_other():
    like = refine(SMALL, {"vocab_size": 300, "block_size": 48})
    found = match(refine(SMALL, {"vocab_size": None}), like, "flops")
    assert (found.vocab_size, found.block_size) == (300, 48)


def test_what_cannot_be_as_cheap_is_refused():
    deep = refine(SMALL, {"n_layer": 40, "n_head": 1})
    with pytest.raises(ConfigError, match="one head of width 64 already costs"):
        match(deep, SMALL, "params")
