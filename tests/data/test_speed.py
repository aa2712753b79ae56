"""Encoding is as fast as was promised, against nanoGPT's own loop on the same text."""

import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest

from espalier.data.tokenizer import choose, train

TEXT = "The quick brown fox jumps over the lazy dog; it barks.\n" * 20_000


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


@pytest.mark.long
@pytest.mark.parametrize("name", ["char", "byte"])
def test_a_table_is_eight_times_as_fast_as_a_dictionary(name: str) -> None:
    table = {symbol: i for i, symbol in enumerate(sorted(set(TEXT)))}
    made = choose("byte") if name == "byte" else train("char", [TEXT], 0)
    pairs = [
        (seconds(lambda: np.array([table[c] for c in TEXT], np.uint16)),
         seconds(lambda: made.encode(TEXT)))
        for _ in range(7)
    ]  # fmt: skip
    assert statistics.median(slow / fast for slow, fast in pairs) > 8
