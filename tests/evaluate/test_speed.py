"""Sizes are stated, and a peak is that of its own piece of work."""

import mmap

import pytest
import torch

from espalier.errors import UserError
from espalier.evaluate.memory import RESET, Peak
from espalier.evaluate.speed import Sizes, measure
from tests.engine.models import BLOCK, build


def test_half_the_block_is_read_and_up_to_64_tokens_are_written():
    assert Sizes.fitting(1024, None, None, 1) == Sizes(512, 64, 1)
    assert Sizes.fitting(16, None, None, 2) == Sizes(8, 8, 2)
    assert Sizes.fitting(16, 15, None, 1) == Sizes(15, 1, 1)


def test_more_than_the_block_holds_is_refused():
    with pytest.raises(UserError, match="--prompt-tokens 15 and --new-tokens 2: the model reads"):
        Sizes.fitting(16, 15, 2, 1)
    with pytest.raises(UserError, match="are 1 or more"):
        Sizes.fitting(16, 4, 4, 0)


def test_both_speeds_are_measured_up_to_the_end_of_the_block():
    found = measure(build("gpt2"), BLOCK, Sizes(8, BLOCK - 8, rows=2, rounds=1), "float32")
    assert (found["prompt"], found["new"], found["rows"]) == (8, 8, 2)
    assert found["prefill_tokens_per_s"] > 0
    assert found["decode_tokens_per_s"] > 0


def test_a_peak_forgets_what_came_before():
    if not RESET.exists():
        pytest.skip("only Linux forgets a process' peak")
    cpu = torch.device("cpu")
    with Peak(cpu) as large, mmap.mmap(-1, 200_000_000) as block:  # past the C library's own heap
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
    with Peak(cpu) as small:
        torch.ones(1000)
    assert large.bytes - small.bytes > 150_000_000
