"""Which colour a token gets, by hand."""

import math

import pytest

from espalier.report import colours
from espalier.report.colours import AMBER, GREEN, RED, Piece


def test_minmax_runs_from_the_smallest_to_the_largest() -> None:
    assert colours.scaled([1.0, 3.0, 2.0]) == [0.0, 1.0, 0.5]
    assert colours.scaled([2.0, 2.0]) == [1.0, 1.0]
    assert colours.scaled([2.0, math.inf, 4.0]) == [0.0, None, 1.0]


def test_ranks_run_from_2_to_k_by_ratio() -> None:
    found = colours.ranked([1, 2, 4, 8, 9], k=8)
    assert found == [None, 1.0, pytest.approx(0.5), pytest.approx(0.0), 0.0]
    assert colours.ranked([1, 2, 3], k=2) == [None, 1.0, 0.0]


def test_colours_run_from_red_by_amber_to_green() -> None:
    assert [colours.colour(value) for value in (0.0, 0.5, 1.0)] == [RED, AMBER, GREEN]


def test_a_terminal_shows_escape_sequences_only_where_it_may() -> None:
    pieces = [Piece("a"), Piece("b", 0.0)]
    assert colours.terminal(pieces, painted=False) == "ab"
    assert colours.terminal(pieces, painted=True) == "a\x1b[1;38;2;196;64;48mb\x1b[0m"


def test_a_page_is_safe_for_any_text() -> None:
    page = colours.page("<t>", [("s", "about", [Piece("<b>&", 1.0, 'say "x"'), Piece("<i>")])])
    assert "<title>&lt;t&gt;</title>" in page
    assert 'title="say &quot;x&quot;">&lt;b&gt;&amp;</i>&lt;i&gt;</pre>' in page
