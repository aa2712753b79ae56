"""tokenizer.json spells every text as our tokenizer does."""

import json
from pathlib import Path

import pytest

from espalier.data.tokenizer import choose
from espalier.data.tokenizer.base import END_OF_TEXT, Tokenizer
from espalier.data.tokenizer.bpe import train
from espalier.data.tokenizer.byte import ByteTokenizer
from espalier.data.tokenizer.char import CharTokenizer
from espalier.data.tokenizer.custom import CustomTokenizer
from espalier.export import tokenizers

theirs = pytest.importorskip("tokenizers")

TEXTS = (
    "Hello, world! isn't it?\n\n  Two  spaces\tand 12345 numbers.",
    "naïve café — 東京 🙂 \u00a0end ",
    "",
    " ",
    "the theory of the thistle " * 20,
)


def spelled(tokenizer: Tokenizer, text: str) -> list[int]:
    made = theirs.Tokenizer.from_str(json.dumps(tokenizers.tree(tokenizer)))
    ids: list[int] = made.encode(text, add_special_tokens=False).ids
    assert made.decode(ids, skip_special_tokens=False) == text
    return ids


@pytest.fixture(scope="module")
def learned() -> Tokenizer:
    return train(
        ["the cat sat on the mat, the theory of the thing; 東京 東京 is'nt 1234\n"] * 50, 320
    )


@pytest.mark.parametrize("text", TEXTS)
def test_pairs_learned_here(learned: Tokenizer, text: str) -> None:
    assert spelled(learned, text) == learned.encode(text).tolist()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("eot", [None, 256])
def test_bytes(text: str, eot: int | None) -> None:
    assert spelled(ByteTokenizer(eot), text) == list(text.encode())


def test_characters() -> None:
    tokenizer = CharTokenizer("\n abcé🙂", eot=7)
    assert spelled(tokenizer, "a b\n\ncé  🙂🙂a") == tokenizer.encode("a b\n\ncé  🙂🙂a").tolist()


@pytest.mark.parametrize("text", TEXTS)
def test_gpt2(shared_data: Path, text: str) -> None:
    tokenizer = choose("gpt2", vocab=shared_data / "gpt2-bpe")
    assert spelled(tokenizer, text) == tokenizer.encode(text).tolist()


def test_an_end_of_text_is_named() -> None:
    made = tokenizers.files(ByteTokenizer(256), 64)
    config = json.loads(made["tokenizer_config.json"])
    assert (config["eos_token"], config["model_max_length"]) == (END_OF_TEXT, 64)
    loaded = theirs.Tokenizer.from_str(made["tokenizer.json"])
    assert loaded.token_to_id(END_OF_TEXT) == 256


def test_a_list_of_ones_own_stays_ours() -> None:
    made = tokenizers.files(CustomTokenizer({"ab": 0, "a": 1, "b": 2}), 64)
    assert list(made) == ["tokenizer.espalier.json"]
    assert json.loads(made["tokenizer.espalier.json"])["tokens"] == {"ab": 0, "a": 1, "b": 2}


def test_merges_are_what_the_ranks_do() -> None:
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"ab": 3, b"abc": 4, b"bc": 5}
    assert tokenizers.merges(ranks) == [(b"a", b"b"), (b"ab", b"c"), (b"b", b"c")]
