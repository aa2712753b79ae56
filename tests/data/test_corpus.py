"""Opening corpora, ours and nanoGPT's, and reading windows from their shards."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.data.corpus import Corpus
from espalier.data.loader import batch, pairs, windows
from espalier.data.order import Order
from espalier.data.prepare import prepare
from espalier.data.request import Request
from espalier.data.tokens import Tokens, token_dtype
from espalier.errors import UserError


def shards(folder: Path, lengths: list[int]) -> Tokens:
    """0, 1, 2 ... dealt to files of these lengths."""
    files, first = [], 0
    for i, length in enumerate(lengths):
        files.append(folder / f"{i}.bin")
        np.arange(first, first + length, dtype="<u2").tofile(files[-1])
        first += length
    return Tokens(files, "<u2", 2**16)


def nanogpt(folder: Path, dtype: str = "<u2", **meta: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("train", "val"):
        np.array([1, 0, 2, 2, 1, 0, 1, 2], dtype).tofile(folder / f"{name}.bin")
    if meta:
        (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return folder


CHARS = {"vocab_size": 3, "stoi": {"a": 0, "b": 1, "c": 2}, "itos": {0: "a", 1: "b", 2: "c"}}


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 6), st.data())
def test_windows_run_over_the_edges_of_shards(
    tmp_path_factory: Any, lengths: list[int], length: int, data: st.DataObject
) -> None:
    tokens = shards(tmp_path_factory.mktemp("t"), lengths)
    if length > len(tokens):
        return
    starts = data.draw(st.lists(st.integers(0, len(tokens) - length), min_size=1, max_size=8))
    found = tokens.gather(starts, length)
    assert found.tolist() == [list(range(s, s + length)) for s in starts]
    assert found.dtype == np.int64


@pytest.mark.parametrize("most", [1, 5, 7, 12, 99])
def test_the_first_tokens_are_those_and_no_others(tmp_path: Path, most: int) -> None:
    found = shards(tmp_path, [5, 2, 6]).first(most)
    length = min(most, 13)
    assert len(found) == length
    assert found.gather([0], length).tolist() == [list(range(length))]
    with pytest.raises(IndexError, match=f"outside the {length} tokens"):
        found.gather([length], 1)


def test_a_window_outside_the_split_is_an_index_error(tmp_path: Path) -> None:
    with pytest.raises(IndexError):
        shards(tmp_path, [5]).gather([3], 3)


@pytest.mark.parametrize(("size", "name"), [(65535, "<u2"), (65536, "<u2"), (65537, "<u4")])
def test_ids_are_stored_as_narrow_as_the_vocabulary_allows(size: int, name: str) -> None:
    dtype = token_dtype(size)
    assert dtype == np.dtype(name)
    assert np.array([size - 1]).astype(dtype).astype(np.int64).tolist() == [size - 1]


def test_targets_are_the_inputs_one_token_on(tmp_path: Path) -> None:
    inputs, targets = pairs(shards(tmp_path, [10]), np.array([2, 5]), 3)
    assert inputs.tolist() == [[2, 3, 4], [5, 6, 7]]
    assert targets.tolist() == [[3, 4, 5], [6, 7, 8]]
    assert inputs.is_contiguous()
    assert targets.is_contiguous()


def test_batches_follow_the_order_at_any_batch_size(tmp_path: Path) -> None:
    tokens = shards(tmp_path, [500, 300])
    order = Order(len(tokens), 16, seed=2)
    inputs, _ = batch(tokens, order, 3, 8, 16)
    one_by_one = [batch(tokens, order, i, 1, 16)[0][0].tolist() for i in range(3, 11)]
    assert inputs.tolist() == one_by_one


def test_validation_windows_are_fixed_and_do_not_overlap(tmp_path: Path) -> None:
    assert windows(shards(tmp_path, [13]), 4).tolist() == [0, 4, 8]
    assert windows(shards(tmp_path, [12]), 4).tolist() == [0, 4]
    with pytest.raises(UserError, match="has 4 tokens, a window of block_size=4 needs 5"):
        windows(shards(tmp_path, [4]), 4)


@pytest.fixture
def small(tmp_path: Path) -> Corpus:
    file = tmp_path / "text.txt"
    file.write_text("the quick brown fox\n" * 20, encoding="utf-8")
    return prepare(Request(str(file), tmp_path / "out", "char"))


def test_a_corpus_opens_with_its_tokenizer(small: Corpus) -> None:
    again = Corpus.open(small.path)
    assert (len(again.train), len(again.val), again.vocab_size) == (360, 40, small.vocab_size)
    assert again.tokenizer.decode(again.val.gather([0], 20)[0]) == "the quick brown fox\n"
    assert again.digest == small.digest


def test_a_shard_cut_short_is_noticed_on_opening(small: Corpus) -> None:
    with (small.path / "train.bin").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(UserError, match="has 100 bytes, 720 expected"):
        Corpus.open(small.path)


def test_one_flipped_bit_is_found_by_verify(small: Corpus) -> None:
    small.verify()
    file = small.path / "val.bin"
    data = bytearray(file.read_bytes())
    data[10] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"val.bin has changed"):
        Corpus.open(small.path).verify()


def test_an_id_outside_the_vocabulary_never_reaches_a_model(small: Corpus) -> None:
    ids = np.fromfile(small.path / "train.bin", "<u2")
    ids[5] = 60000
    ids.tofile(small.path / "train.bin")
    with pytest.raises(UserError, match="token id 60000 is outside"):
        Corpus.open(small.path).train.gather([0], 10)


def test_damaged_or_foreign_descriptions_are_refused(small: Corpus) -> None:
    file = small.path / "meta.json"
    meta = json.loads(file.read_text(encoding="utf-8"))
    for text, why in (
        ("{", "is damaged"),
        (json.dumps(meta | {"format": "other-9"}), "this version reads"),
        (json.dumps({"format": meta["format"]}), "'vocab_size' is missing"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=why):
            Corpus.open(small.path)


def test_no_corpus_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist\. Make one: espalier prepare"):
        Corpus.open(tmp_path / "none")
    with pytest.raises(UserError, match="is no corpus"):
        Corpus.open(tmp_path)


def test_a_nanogpt_directory_of_characters_opens_as_it_is(tmp_path: Path) -> None:
    corpus = Corpus.open(nanogpt(tmp_path, **CHARS))
    assert (corpus.vocab_size, len(corpus.train), len(corpus.val)) == (3, 8, 8)
    assert corpus.tokenizer.decode(corpus.train.gather([0], 8)[0]) == "baccbabc"
    assert len(corpus.digest) == 64


def test_a_nanogpt_directory_without_meta_is_taken_for_gpt2(tmp_path: Path) -> None:
    corpus = Corpus.open(nanogpt(tmp_path))
    assert corpus.vocab_size == 50257
    assert "no meta.pkl" in corpus.meta["note"]


def test_ids_past_the_vocabulary_are_refused_as_a_wrong_width(tmp_path: Path) -> None:
    nanogpt(tmp_path, **CHARS | {"vocab_size": 2})
    with pytest.raises(UserError, match=r"token id 2 is outside the vocabulary of 2.*uint32"):
        Corpus.open(tmp_path)


def test_uint32_tokens_read_as_uint16_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="looks like uint32"):
        Corpus.open(nanogpt(tmp_path, "<u4", **CHARS))


class Evil:
    def __reduce__(self) -> tuple[Any, Any]:
        return (print, ("run by a pickle",))


@pytest.mark.parametrize("value", [Evil(), np.arange(3), {1, 2}], ids=["call", "array", "ok set"])
def test_a_pickle_that_names_code_is_refused_unrun(
    tmp_path: Path, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    nanogpt(tmp_path, **CHARS, extra=value)
    if isinstance(value, set):
        Corpus.open(tmp_path)  # plain data
    else:
        with pytest.raises(UserError, match=r"meta.pkl is refused: it names"):
            Corpus.open(tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("data", [b"", b"\x80\x04N.", b"garbage", b"\x80\x04}."])
def test_a_damaged_pickle_is_one_clear_line(tmp_path: Path, data: bytes) -> None:
    nanogpt(tmp_path)
    (tmp_path / "meta.pkl").write_bytes(data)
    with pytest.raises(UserError, match=r"meta\.pkl"):
        Corpus.open(tmp_path)
