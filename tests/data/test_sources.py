"""Several sources in one corpus, corpora put together, other people's meta.pkl, statistics."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from espalier.data import blocks, pieces
from espalier.data import prepare as engine
from espalier.data.corpus import Corpus
from espalier.data.prepare import prepare
from espalier.data.request import Request
from espalier.data.stats import statistics
from espalier.data.tokenizer import train
from espalier.errors import UserError


def make(out: Path, *sources: Path, tokenizer: str | None = "byte", **options: Any) -> Corpus:
    first, *more = map(str, sources)
    return prepare(Request(first, out, tokenizer, more=tuple(more), **options))


def text_of(corpus: Corpus, split: str) -> str:
    tokens = corpus.train if split == "train" else corpus.val
    return corpus.tokenizer.decode(tokens.gather([0], len(tokens))[0])


def written(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def lines(file: Path, count: int) -> Path:
    return written(file, "".join(json.dumps({"text": f"line {i}"}) + "\n" for i in range(count)))


def test_texts_beside_records_are_divided_at_their_own_positions(tmp_path: Path) -> None:
    a, b = written(tmp_path / "a.txt", "0123456789" * 10), written(tmp_path / "b.txt", "é" * 20)
    corpus = make(tmp_path / "out", a, b, lines(tmp_path / "c.jsonl", 50), val_fraction=0.2)
    end = "<|endoftext|>"
    train_, val = (text_of(corpus, split).split(end) for split in ("train", "val"))
    assert train_[:2] == ["0123456789" * 8, "é" * 16]
    assert val[:2] == ["0123456789" * 2, "é" * 4]
    assert sorted(train_[2:-1] + val[2:-1]) == sorted(f"line {i}" for i in range(50))
    assert corpus.meta["documents"]["duplicates"] == 0
    assert [part["name"] for part in corpus.meta["source"]["sources"]] == [
        "a.txt",
        "b.txt",
        "c.jsonl",
    ]


def test_several_sources_interrupted_end_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 300)
    monkeypatch.setattr(pieces, "PIECE", 128)
    monkeypatch.setattr(engine, "COMMIT_EVERY", 0.0)
    sources = written(tmp_path / "a.txt", "one two three " * 90), lines(tmp_path / "b.jsonl", 90)
    whole = make(tmp_path / "whole", *sources)
    real = engine.ShardWriter.add
    for stop in (0, 2):
        calls = iter(range(100))

        def add(self: Any, block: Any, ids: Any) -> None:
            real(self, block, ids)
            if next(calls) == stop:  # noqa: B023
                raise KeyboardInterrupt

        monkeypatch.setattr(engine.ShardWriter, "add", add)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "out", *sources)
    monkeypatch.setattr(engine.ShardWriter, "add", real)
    assert make(tmp_path / "out", *sources).digest == whole.digest


def test_a_plugin_stands_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="arithmetic is a plug-in: prepare it alone"):
        make(tmp_path / "out", lines(tmp_path / "a.jsonl", 5), Path("arithmetic"))


def test_a_corpus_lends_its_tokenizer(tmp_path: Path) -> None:
    first = make(tmp_path / "one", written(tmp_path / "a.txt", "abc " * 20), tokenizer="char")
    second = make(
        tmp_path / "two", written(tmp_path / "b.txt", "cab " * 30), tokenizer=str(tmp_path / "one")
    )
    assert second.meta["tokenizer"] == first.meta["tokenizer"]


def test_corpora_of_one_tokenizer_keep_their_splits_when_put_together(tmp_path: Path) -> None:
    one = make(tmp_path / "one", written(tmp_path / "a.txt", "0123456789" * 10))
    two = make(tmp_path / "two", written(tmp_path / "b.txt", "abcdefghij" * 20), shards=2)
    both = make(tmp_path / "both", one.path, two.path, tokenizer=None)
    assert text_of(both, "train") == text_of(one, "train") + text_of(two, "train")
    assert text_of(both, "val") == text_of(one, "val") + text_of(two, "val")
    assert both.meta["tokens"] == {"train": 270, "val": 30}
    both.verify()
    assert make(tmp_path / "both", one.path, two.path, tokenizer=None).digest == both.digest


def test_corpora_that_do_not_fit_are_refused_with_the_way_out(tmp_path: Path) -> None:
    one = make(tmp_path / "one", written(tmp_path / "a.txt", "abc " * 20), tokenizer="char")
    two = make(tmp_path / "two", written(tmp_path / "b.txt", "xyz " * 20), tokenizer="char")
    cases: list[tuple[tuple[Path, ...], dict[str, Any], str]] = [
        ((one.path, two.path), {}, r"another tokenizer than .*one: .* --tokenizer .*one"),
        ((one.path,), {}, "is a prepared corpus already"),
        ((one.path, tmp_path / "a.txt"), {}, r"a\.txt is no prepared corpus"),
        ((one.path, one.path), {"val_fraction": 0.5}, "--val-fraction is for texts"),
    ]
    for sources, options, why in cases:
        with pytest.raises(UserError, match=why):
            make(tmp_path / "out", *sources, tokenizer=None, **options)
    assert not list(tmp_path.glob("out*"))


def test_a_changed_shard_is_not_copied(tmp_path: Path) -> None:
    one = make(tmp_path / "one", written(tmp_path / "a.txt", "abc " * 20))
    (one.path / "val.bin").write_bytes((one.path / "val.bin").read_bytes()[::-1])
    with pytest.raises(UserError, match=r"val.bin has changed since"):
        make(tmp_path / "out", one.path, one.path, tokenizer=None)
    assert not list(tmp_path.glob("out*"))


def test_bytes_that_fell_back_are_counted_by_split(tmp_path: Path) -> None:
    tokens = written(tmp_path / "list.txt", "ab\n")
    text = written(tmp_path / "a.txt", "abx" * 30)
    corpus = make(tmp_path / "out", text, tokenizer=f"custom-byte:{tokens}", val_fraction=0.5)
    assert corpus.meta["fallback"] == {"train": 15, "val": 15}


def test_special_tokens_go_with_a_trained_tokenizer(tmp_path: Path) -> None:
    special = written(tmp_path / "special.txt", "<|user|>\n")
    text = written(tmp_path / "a.txt", "<|user|>hello there " * 40)
    corpus = make(tmp_path / "out", text, tokenizer="bpe", vocab_size=270, special=special)
    ids = corpus.train.gather([0], len(corpus.train))[0]
    assert (ids == corpus.tokenizer.encode("<|user|>")[0]).sum() == 36
    again = Corpus.open(tmp_path / "out").tokenizer
    assert again.encode("<|user|>").tolist() == [corpus.vocab_size - 1]


def test_statistics_of_a_small_text_are_as_counted_by_hand(tmp_path: Path) -> None:
    text = written(tmp_path / "a.txt", "aaab" * 10 + "é")
    corpus = make(tmp_path / "out", text, tokenizer="char", val_fraction=1 / 41)
    found = statistics(corpus, "train")  # 30 a, 10 b; é is for validation
    assert (found.tokens, found.types, found.type_token_ratio) == (40, 2, 0.05)
    assert found.entropy == pytest.approx(0.75 * np.log2(4 / 3) + 0.25 * 2)
    assert found.bytes_per_token == 1.0
    assert found.histogram() == [(0, 0, 1), (10, 99, 2)]
    assert found.commonest(5) == [(0, 30), (1, 10)]
    assert statistics(corpus, "val").bytes_per_token == 2.0


def foreign(folder: Path, ids: list[int], **meta: Any) -> Corpus:
    folder.mkdir(exist_ok=True)
    for name in ("train", "val"):
        np.array(ids, "<u2").tofile(folder / f"{name}.bin")
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return Corpus.open(folder)


@pytest.mark.parametrize(
    ("kind", "listed"),
    [("custom_char_with_byte_fallback", "custom_chars"), ("json_byte_fallback", "custom_tokens")],
)
def test_lists_with_byte_fallback_open_and_write_as_their_maker_did(
    tmp_path: Path, kind: str, listed: str
) -> None:
    tokens = ["a", "abc", "c"]  # its maker took the first of the list, never abc
    stoi: dict[Any, int] = {bytes([value]): value for value in range(256)}
    stoi |= {token: 256 + i for i, token in enumerate(tokens)}
    meta = {"vocab_size": 259, "tokenizer": kind, listed: tokens, "stoi": stoi}
    corpus = foreign(tmp_path / "c", [256, 257, 0xC3, 0xA9, 258], **meta)
    assert corpus.tokenizer.decode(corpus.train.gather([0], 5)[0]) == "aabcéc"
    assert corpus.tokenizer.encode("abcé").tolist() == [256, 98, 258, 0xC3, 0xA9]


def test_a_list_without_fallback_opens(tmp_path: Path) -> None:
    stoi = {"the": 0, "t": 1, " ": 2}
    corpus = foreign(tmp_path / "c", [0, 2, 1], vocab_size=3, tokenizer="custom", stoi=stoi)
    assert corpus.tokenizer.decode([0, 2, 1]) == "the t"
    assert corpus.tokenizer.encode("t the").tolist() == [1, 2, 0]


def test_tiktoken_with_special_tokens_opens(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPALIER_VOCAB", str(shared_data))
    meta = {"vocab_size": 50257, "tokenizer": "tiktoken", "tiktoken_encoding": "gpt2"}
    more = {"has_additional_tokens": True, "special_tokens": {"<|im|>": 50300}}
    corpus = foreign(tmp_path / "c", [15496, 995, 50300, 50256], **meta, **more)
    assert corpus.vocab_size == 50301
    assert corpus.tokenizer.encode("Hello world<|im|>").tolist() == [15496, 995, 50300]
    plain = foreign(tmp_path / "d", [15496, 50256], **meta | {"vocab_size": 50256})
    assert (plain.vocab_size, plain.tokenizer.vocab_size) == (50257, 50257)


def test_sentencepiece_needs_its_model_beside_it(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    made = train("sentencepiece", ["hello hello world\n" * 20], 290)
    stoi = {piece: i for i, piece in enumerate(made.pieces())}  # type: ignore[attr-defined]
    ids = made.encode("hello world").tolist()
    meta = {"vocab_size": 290, "tokenizer": "sentencepiece", "stoi": stoi}
    corpus = foreign(tmp_path / "c", ids, **meta | {"vocab_size": made.vocab_size})
    with pytest.raises(UserError, match=r"no \.model file there has these \d+ pieces"):
        assert corpus.tokenizer
    (tmp_path / "c" / "sp.model").write_bytes(made.model)  # type: ignore[attr-defined]
    opened = Corpus.open(tmp_path / "c").tokenizer
    assert opened.decode(ids) == "hello world"


@pytest.mark.parametrize(
    ("meta", "why"),
    [
        ({"tokenizer": "custom", "stoi": {"a": 0, "b": 2}}, "stoi is not a table of texts"),
        ({"tokenizer": "json_byte_fallback"}, "lists no tokens beside its bytes"),
        (
            {"tiktoken_encoding": "gpt2", "special_tokens": {"<|im|>": "x"}},
            "special_tokens is not a table from texts to ids",
        ),
        (
            {"tokenizer": "json_byte_fallback", "custom_tokens": ["a"], "stoi": {b"a": 3}},
            "its bytes are not the ids 0 to 255",
        ),
    ],
)
def test_a_strange_meta_is_one_clear_line(tmp_path: Path, meta: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        assert foreign(tmp_path / "c", [0, 1], vocab_size=300, **meta).tokenizer
