"""Answers end where they must, and are the same whoever is asked beside them."""

import pytest

from espalier.data.tokenizer.char import CharTokenizer
from espalier.evaluate.answers import Speaker, before
from tests.engine.models import BLOCK, build

SYMBOLS = "abcdefghijklmnopqrstuvwxyzäöü"


def speaker(rows=4):
    return Speaker(build("gpt2"), CharTokenizer(SYMBOLS), BLOCK, rows)


PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [11, 12], list(range(20))]


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_company_changes_no_answer(rows):
    assert speaker(rows)(PROMPTS, 6) == [speaker(1)([prompt], 6)[0] for prompt in PROMPTS]


def test_an_answer_ends_before_its_stop():
    free = speaker()([PROMPTS[0]], 6)[0]
    assert len(free) == 6
    stop = free[3:5]
    assert speaker()([PROMPTS[0]], 6, [stop]) == [free[: free.index(stop)]]


def test_a_prompt_loses_its_beginning_where_the_answer_needs_room():
    assert speaker().fit(list(range(20)), 6) == list(range(10, 20))
    assert speaker().fit([1, 2], 6) == [1, 2]
    assert speaker().fit([1, 2], 99) == [2]


def test_the_earliest_stop_counts():
    assert before("one two three", ["three", "two"]) == "one "
    assert before("one", ["two"]) == "one"
