"""The order of windows: a keyed permutation, afresh each epoch, without replacement."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.data.order import Order, epoch_keys, permute
from espalier.errors import UserError


@given(st.integers(1, 5000), st.integers(0, 2**63), st.integers(0, 1000))
def test_the_permutation_is_a_bijection(size: int, seed: int, epoch: int) -> None:
    found = permute(np.arange(size), size, epoch_keys(seed, epoch).rounds)
    assert np.array_equal(np.sort(found), np.arange(size))


@given(st.integers(2, 2000), st.integers(1, 64), st.integers(0, 9), st.integers(0, 5))
def test_an_epoch_visits_each_window_of_its_grid_once(
    extra: int, block: int, seed: int, epoch: int
) -> None:
    n_tokens = block + extra
    order = Order(n_tokens, block, seed)
    starts = order.starts(np.arange(len(order)) + epoch * len(order))
    assert len(np.unique(starts)) == len(order)
    assert len(np.unique(starts % block)) == 1
    assert starts.min() >= 0
    assert starts.max() + block + 1 <= n_tokens


def test_the_windows_of_an_epoch_miss_less_than_two_blocks() -> None:
    order = Order(1000, 64, seed=1)
    assert len(order) == 14  # (1000 - 64) // 64
    assert order.shifts == 64


def test_one_window_fits_exactly() -> None:
    order = Order(65, 64, seed=3)
    assert order.starts(np.arange(4)).tolist() == [0, 0, 0, 0]


def test_the_order_is_the_same_however_it_is_asked_for() -> None:
    order = Order(100_000, 32, seed=5)
    whole = order.starts(np.arange(9000))  # crosses epochs
    pieces = [order.starts(np.arange(i, min(i + 7, 9000))) for i in range(0, 9000, 7)]
    assert np.array_equal(whole, np.concatenate(pieces))
    assert order.starts(17).tolist() == [whole[17]]


def test_working_ahead_changes_nothing() -> None:
    order, ahead = Order(9000, 32, seed=5), Order(9000, 32, seed=5)
    wanted = [(0, 7), (7, 7), (270, 12), (282, 900), (3, 5), (10**9, 4)]  # 280 windows an epoch
    for first, rows in wanted:
        expected = order.starts(np.arange(first, first + rows))
        assert np.array_equal(ahead.run(first, rows), expected)


def test_seeds_and_epochs_give_other_orders() -> None:
    a, b = Order(100_000, 32, seed=5), Order(100_000, 32, seed=6)
    first = np.arange(len(a))
    assert not np.array_equal(a.starts(first), b.starts(first))
    assert not np.array_equal(a.starts(first), a.starts(first + len(a)))


def test_the_order_is_pinned_so_that_old_runs_resume() -> None:
    assert Order(10_000, 100, seed=1337).starts(np.arange(5)).tolist() == PINNED


PINNED = [7747, 4747, 3347, 2047, 1347]


def test_neighbours_are_scattered() -> None:
    found = permute(np.arange(10_000), 10_000, epoch_keys(1, 0).rounds).astype(float)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(found, np.arange(10_000))[0, 1]) < 0.05


def test_a_corpus_shorter_than_a_window_says_both_numbers() -> None:
    with pytest.raises(UserError, match="has 312 tokens, a window of block_size=1024 needs 1025"):
        Order(312, 1024, seed=1)


def test_a_trillion_tokens_need_no_memory() -> None:
    order = Order(10**12, 1024, seed=1)
    assert len(np.unique(order.starts(np.arange(1000)))) == 1000
