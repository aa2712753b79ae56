"""Streams side by side as digits of one token, by hand."""

import pytest
import torch
from torch.nn import functional as F

from espalier.errors import ConfigError
from espalier.nn.embed.contexts import Contexts, ContextsConfig
from espalier.nn.slots import Dims, reset
from espalier.nn.state import at

DIMS = Dims(n_layer=1, n_embd=4, n_head=1, block_size=8, vocab_size=7)


def made() -> Contexts:
    """Streams of 2 and 3 tokens, and an end of text: rows 0-1, 2-4 and 5."""
    part = ContextsConfig(sizes=(2, 3)).build(DIMS)
    assert isinstance(part, Contexts)
    reset(part, 0)
    return part


def test_a_token_is_the_sum_of_its_digits_rows() -> None:
    part = made()
    ids = torch.tensor([[5, 1, 6]])  # (1, 2), (0, 1) and the end of text
    row = part.weight
    want = torch.stack([row[1] + row[4], row[0] + row[3], row[5]])
    torch.testing.assert_close(part(ids, at(ids))[0], want)


def test_the_loss_of_a_token_is_the_sum_of_the_streams_losses() -> None:
    part, hidden = made(), torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    one, other = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([2, 0, 1, 1, 2])
    joint = part.logits(hidden)[:, :6]
    own = F.linear(hidden, part.weight)
    want = F.cross_entropy(own[:, :2], one) + F.cross_entropy(own[:, 2:5], other)
    torch.testing.assert_close(F.cross_entropy(joint, 3 * one + other), want)


def test_streams_that_make_more_tokens_than_there_are_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"embed.sizes=\[3, 3\] make 9 tokens"):
        ContextsConfig(sizes=(3, 3)).build(DIMS)
