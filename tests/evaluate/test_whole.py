"""Whole documents through overlapping windows: every token once, with the context that is said."""

import contextlib
import math

import numpy as np
import pytest
import torch

from espalier.data.tokenizer.byte import ByteTokenizer
from espalier.data.tokenizer.char import CharTokenizer
from espalier.errors import UserError
from espalier.evaluate import cells
from espalier.evaluate.documents import Document, Text
from espalier.evaluate.whole import token_nlls, windows
from espalier.train.precision import choose
from tests.engine.models import BLOCK, KINDS, VOCAB, build

FP32 = choose("float32", "cpu", 0)


@contextlib.contextmanager
def unwatched(title, total, unit):
    yield lambda done: None


def how(stride=None):
    return cells.How(stride, 1, FP32, unwatched)


def test_windows_of_4_by_a_stride_of_2_over_11_tokens():
    found = [tuple(window) for window in windows(0, 11, 4, 2)]
    # inputs from, inputs to, first input whose next token is scored
    assert found == [(0, 0, 4, 0), (0, 2, 6, 4), (0, 4, 8, 6), (0, 6, 10, 8)]


def test_a_stride_of_the_whole_block_is_windows_side_by_side():
    assert [tuple(w)[1:] for w in windows(0, 11, 4, 4)] == [(0, 4, 0), (4, 8, 4), (8, 10, 8)]


@pytest.mark.parametrize("length", [1, 2, 3, 16, 17, 18, 40, 41])
@pytest.mark.parametrize("stride", [1, 3, 16])
def test_every_token_but_the_first_is_scored_once_with_enough_before_it(length, stride):
    scored = []
    for _, start, stop, first in windows(0, length, 16, stride):
        assert stop - start <= 16
        for place in range(first, stop):
            assert place - start + 1 >= min(place + 1, 16 - stride + 1)
            scored.append(place + 1)
    assert scored == list(range(1, length))


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_is_scored_from_its_own_window(kind):
    model, chance = build(kind), np.random.default_rng(0)
    rows = [chance.integers(VOCAB, size=n) for n in (41, 7, 2, 1)]
    found = token_nlls(model, rows, BLOCK, 5)
    for row, nlls in zip(rows, found, strict=True):
        assert len(nlls) == len(row) - 1
        for _, start, stop, first in windows(0, len(row), BLOCK, 5):
            logits = model(torch.from_numpy(row[None, start:stop]))[0].double()
            expected = -logits.log_softmax(-1)[range(stop - start), row[start + 1 : stop + 1]]
            assert nlls[first:stop] == pytest.approx(
                expected[first - start :].detach().numpy(), abs=2e-5
            )


def uniform():
    """A model that finds every one of 29 tokens as likely as the others."""
    model = build("gpt2")
    with torch.no_grad():
        model.trunk.embed.weight.zero_()
    return model


SYMBOLS = "abcdefghijklmnopqrstuvwxyzäöü"


def test_a_uniform_model_takes_log2_of_29_bits_for_a_character_of_one_byte():
    text = Text("t", (Document("hello world".replace(" ", "")), Document("abc")))
    record = cells.measure(uniform(), CharTokenizer(SYMBOLS), BLOCK, text, how()).record
    assert record["bits_per_byte"]["mean"] == pytest.approx(math.log2(29), rel=1e-6)
    assert record["bits_per_byte"]["low"] == pytest.approx(math.log2(29), rel=1e-6)
    assert record["perplexity"]["mean"] == pytest.approx(29, rel=1e-6)
    assert (record["tokens"], record["bytes"], record["documents"]) == (9 + 2, 9 + 2, 2)


def test_characters_of_two_bytes_share_their_bits():
    text = Text("t", (Document("aäöüäöü"), Document("äö")))
    record = cells.measure(uniform(), CharTokenizer(SYMBOLS), BLOCK, text, how()).record
    assert record["bytes"] == 12 + 2
    assert record["bits_per_byte"]["mean"] == pytest.approx(math.log2(29) / 2, rel=1e-6)


def test_an_end_of_text_stands_before_each_document_and_the_first_token_counts():
    tokenizer = CharTokenizer(SYMBOLS[:28], eot=28)
    text = Text("t", (Document("abc"), Document("a")))
    record = cells.measure(uniform(), tokenizer, BLOCK, text, how()).record
    assert (record["tokens"], record["bytes"]) == (4, 4)


def test_one_document_is_drawn_in_blocks_of_the_context():
    text = Text("t", (Document("abcdefghij" * 5),))
    record = cells.measure(build("gpt2"), CharTokenizer(SYMBOLS), BLOCK, text, how()).record
    assert record["interval"]["over"] == f"blocks of {BLOCK} tokens"
    assert record["interval"]["clusters"] == 4  # 49 tokens in blocks of 16
    assert record["loss"]["low"] < record["loss"]["mean"] < record["loss"]["high"]


def test_a_model_differs_from_itself_by_nothing_and_from_another_tokenizer_s_blocks_not_at_all():
    whole = Text("t", (Document("abcdefghij" * 5),))
    same = cells.measure(build("gpt2"), CharTokenizer(SYMBOLS), BLOCK, whole, how())
    assert cells.against(same, same, 1) == {"mean": 0, "low": 0, "high": 0}
    shorter = cells.measure(build("gpt2"), CharTokenizer(SYMBOLS), BLOCK // 2, whole, how())
    assert cells.against(shorter, same, 1) is None


def test_more_context_is_what_a_smaller_stride_buys():
    text = Text("t", (Document("abcdefghij" * 5),))
    model, tokenizer = build("gpt2"), CharTokenizer(SYMBOLS)
    found = [cells.measure(model, tokenizer, BLOCK, text, how(s)).record for s in (16, 4)]
    assert [one["least_context"] for one in found] == [1, 13]


def test_what_cannot_be_read_is_refused():
    tokenizer = CharTokenizer(SYMBOLS)
    with pytest.raises(UserError, match="at most the model's block of 16"):
        cells.measure(uniform(), tokenizer, BLOCK, Text("t", (Document("ab"),)), how(17))
    with pytest.raises(UserError, match="no token to score"):
        cells.measure(uniform(), tokenizer, BLOCK, Text("t", (Document("a"),)), how())
    with pytest.raises(UserError, match="not in the character vocabulary: '1'"):
        cells.measure(uniform(), tokenizer, BLOCK, Text("t", (Document("a1"),)), how())


def test_a_first_token_that_is_half_a_character_counts_as_one_byte():
    _, lost = cells.prepared(Text("t", (Document("äb"), Document("ab"))), ByteTokenizer())
    assert lost == [1, 1]
