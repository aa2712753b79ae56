"""Measures of a transcript, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.evaluate.transcript import match, rates

pytest.importorskip("rapidfuzz")


def test_one_letter_exchanged_and_one_left_out() -> None:
    found = match("total 12.50", "totel 12.5")
    assert (found.edits, found.characters) == (2, 11)
    assert (found.word_edits, found.words) == (2, 2)
    assert found.ned == pytest.approx(2 / 11)
    assert found.overlap == 0
    assert not found.exact


def test_space_around_a_text_does_not_count() -> None:
    assert match("a b", " a b\n").exact


def test_overlap_forgives_order_case_and_garbage_but_edits_do_not() -> None:
    found = match("red green blue red", "Blue xx RED green")
    assert found.overlap == 1
    assert found.word_edits == 4


def test_an_empty_answer_reads_nothing() -> None:
    found = match("ab cd", "")
    assert (found.edits, found.word_edits, found.ned, found.overlap) == (5, 2, 1.0, 0.0)


def test_an_empty_page_is_read_by_silence_alone() -> None:
    assert match("", "").exact
    assert match("", "no").ned == 1.0


def test_rates_weigh_pages_by_their_length() -> None:
    found = rates([match("a", "b"), match("123456789", "123456789")], seed=0)
    assert found.cer.mean == pytest.approx(1 / 10)
    assert found.wer.mean == pytest.approx(1 / 2)
    assert found.ned.mean == pytest.approx(1 / 2)
    assert found.exact.mean == pytest.approx(1 / 2)
    assert (found.cer.low, found.cer.high) == (0.0, 1.0)  # either page may be drawn twice


@given(st.text(max_size=12), st.text(max_size=12))
def test_edits_are_those_of_the_textbook(truth: str, found: str) -> None:
    truth, found = truth.strip(), found.strip()
    row = list(range(len(found) + 1))
    for i, a in enumerate(truth, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(found, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    assert match(truth, found).edits == row[-1]
