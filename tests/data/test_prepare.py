"""What `prepare` makes of each kind of source, and how it splits, counts and resumes."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.data import blocks, pieces
from espalier.data import prepare as engine
from espalier.data.corpus import Corpus
from espalier.data.prepare import prepare
from espalier.data.request import Listener, Request
from espalier.data.split import TOP
from espalier.data.tokenizer import choose, train


def make(source: Path | str, out: Path, tokenizer: str = "byte", **options: Any) -> Corpus:
    return prepare(Request(str(source), out, tokenizer, **options))


def text_of(corpus: Corpus, split: str) -> str:
    tokens = corpus.train if split == "train" else corpus.val
    return corpus.tokenizer.decode(tokens.gather([0], len(tokens))[0])


def documents(count: int) -> list[str]:
    return [f"document number {i}, {'word ' * (i % 7)}" for i in range(count)]


def write_lines(file: Path, texts: list[str]) -> Path:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "wt", encoding="utf-8") as stream:
        stream.write(lines)
    return file


def shards_of(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}


def test_one_text_is_split_at_a_position(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("0123456789" * 10, encoding="utf-8")
    corpus = make(file, tmp_path / "out", "char")
    assert text_of(corpus, "train") == "0123456789" * 9
    assert text_of(corpus, "val") == "0123456789"
    assert corpus.meta["split"] == {"rule": "position", "val_fraction": 0.1, "edges": [90]}


def test_positions_count_characters_not_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("é🙂" * 50, encoding="utf-8")
    corpus = make(file, tmp_path / "out", val_fraction=0.25)
    assert corpus.meta["characters"] == {"train": 75, "val": 25}
    assert corpus.meta["bytes"] == {"train": 224, "val": 76}


def test_tiny_shakespeare_is_cut_as_nanogpt_cuts_it(shared_data: Path, tmp_path: Path) -> None:
    text = shared_data / "tinyshakespeare.txt"
    corpus = prepare(Request("shakespeare", tmp_path / "s", local=text))
    assert (len(corpus.train), len(corpus.val), corpus.vocab_size) == (1_003_854, 111_540, 65)
    whole = text.read_text(encoding="utf-8")
    nanogpt = {symbol: i for i, symbol in enumerate(sorted(set(whole)))}
    assert corpus.val.gather([0], 40)[0].tolist() == [nanogpt[c] for c in whole[1_003_854:][:40]]


def test_the_standard_library_is_megabytes_of_python(tmp_path: Path) -> None:
    corpus = prepare(Request("python-stdlib", tmp_path / "py"))
    source = corpus.meta["source"]
    assert source["bytes"] > 6_000_000
    assert source["name"].startswith("Python 3.")
    assert corpus.vocab_size == 2048
    assert len(corpus.train) > len(corpus.val) > 10_000


def test_many_documents_are_split_by_their_hashes_with_an_end_each(tmp_path: Path) -> None:
    texts = documents(200)
    corpus = make(write_lines(tmp_path / "a.jsonl", texts), tmp_path / "out", val_fraction=0.2)
    keys = [int.from_bytes(hashlib.sha256(t.encode()).digest()[:8], "big") for t in texts]
    val = [t for t, key in zip(texts, keys, strict=True) if key < int(0.2 * TOP)]
    train_ = [t for t, key in zip(texts, keys, strict=True) if key >= int(0.2 * TOP)]
    assert text_of(corpus, "val") == "".join(f"{t}<|endoftext|>" for t in val)
    assert text_of(corpus, "train") == "".join(f"{t}<|endoftext|>" for t in train_)
    assert corpus.meta["documents"]["train"] == len(train_)


def test_equal_documents_are_counted_and_stay_on_one_side(tmp_path: Path) -> None:
    corpus = make(write_lines(tmp_path / "a.jsonl", documents(50) * 3), tmp_path / "out")
    assert corpus.meta["documents"]["duplicates"] == 100
    sides = [set(text_of(corpus, side).split("<|endoftext|>")) for side in ("train", "val")]
    assert sides[0] & sides[1] == {""}


def test_two_documents_give_each_split_one(tmp_path: Path) -> None:
    corpus = make(write_lines(tmp_path / "a.jsonl", ["first", "second"]), tmp_path / "out")
    assert {text_of(corpus, "train"), text_of(corpus, "val")} == {
        "first<|endoftext|>",
        "second<|endoftext|>",
    }


@pytest.mark.parametrize("kind", ["folder", "glob", "jsonl.gz", "parquet"])
def test_every_kind_of_source_gives_the_same_tokens(tmp_path: Path, kind: str) -> None:
    texts = documents(60)
    reference = make(write_lines(tmp_path / "a.jsonl", texts), tmp_path / "ref")
    source: Path | str = tmp_path / f"b.{kind}"
    if kind in ("folder", "glob"):
        folder = tmp_path / "many"
        folder.mkdir()
        for i, text in enumerate(texts):
            (folder / f"{i:03d}.txt").write_bytes(text.encode())
        source = folder if kind == "folder" else f"{folder}/*.txt"
    elif kind == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        table = pytest.importorskip("pyarrow").table({"text": texts})
        parquet.write_table(table, source, row_group_size=17)
    else:
        write_lines(Path(source), texts)
    assert make(source, tmp_path / "out").digest == reference.digest


def test_shards_hold_every_training_document_once(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", documents(300))
    one, four = make(file, tmp_path / "one"), make(file, tmp_path / "four", shards=4)
    assert len(four.train.files) == 4
    assert len(four.train) == len(one.train)
    together = sorted(text_of(four, "train").split("<|endoftext|>"))
    assert together == sorted(text_of(one, "train").split("<|endoftext|>"))


def test_one_text_in_shards_is_one_text(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("".join(map(str, range(1000))), encoding="utf-8")
    one, three = make(file, tmp_path / "one"), make(file, tmp_path / "three", shards=3)
    assert text_of(three, "train") == text_of(one, "train")


def test_target_tokens_stop_behind_the_document_that_reaches_them(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", ["12345"] * 1 + [f"{i:05d}" for i in range(99)])
    corpus = make(file, tmp_path / "out", target_tokens=100)
    assert sum(corpus.meta["tokens"].values()) == 102  # 17 documents of 5 bytes and an end


def test_blank_and_bad_records_are_left_out_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    good = "".join(json.dumps({"text": t}) + "\n" for t in documents(30))
    file.write_text(good + '{"text": "  "}\n{"text": 5}\n\nnot json\n', encoding="utf-8")
    corpus = make(file, tmp_path / "out", bad="skip")
    assert corpus.meta["documents"]["blank"] == 1
    assert corpus.meta["documents"]["skipped"] == 2


def test_replaced_bytes_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"caf\xe9 au lait " * 10)
    corpus = make(file, tmp_path / "out", errors="replace")
    assert corpus.meta["replaced"] == 10
    assert text_of(corpus, "val").count("\ufffd") == 1


def test_an_end_of_text_in_a_document_stays_text(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", [f"{i} <|endoftext|> x" for i in range(40)])
    corpus = make(file, tmp_path / "out", "bpe", vocab_size=300)
    ids = corpus.train.gather([0], len(corpus.train))[0]
    assert (ids == corpus.tokenizer.eot).sum() == corpus.meta["documents"]["train"]


def test_a_finished_corpus_is_used_again_and_said_so(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", documents(30))
    first = make(file, tmp_path / "out")
    stamp = (tmp_path / "out" / "train.bin").stat().st_mtime_ns
    notes: list[str] = []
    again = prepare(Request(str(file), tmp_path / "out", "byte"), Listener(notes.append))
    assert again.digest == first.digest
    assert (tmp_path / "out" / "train.bin").stat().st_mtime_ns == stamp
    assert notes == [f"{tmp_path / 'out'} is this very corpus already: nothing to do"]


def test_overwrite_replaces_another_corpus_and_leaves_nothing_else(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", documents(30))
    make(file, tmp_path / "out", shards=2)
    make(file, tmp_path / "out", existing="overwrite")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.jsonl", "out"]
    assert sorted(shards_of(tmp_path / "out")) == ["meta.json", "train.bin", "val.bin"]


def test_several_processes_write_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 500)
    file = write_lines(tmp_path / "a.jsonl", documents(100))
    make(file, tmp_path / "one")
    make(file, tmp_path / "two", processes=2)
    assert shards_of(tmp_path / "one") == shards_of(tmp_path / "two")


@pytest.mark.parametrize("kind", ["text", "folder", "jsonl", "jsonl.gz", "parquet"])
def test_an_interrupted_preparation_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 300)
    monkeypatch.setattr(pieces, "PIECE", 128)
    monkeypatch.setattr(engine, "COMMIT_EVERY", 0.0)
    texts = [*documents(40), "one long document " * 40, *documents(10)]
    source = tmp_path / f"a.{kind}"
    if kind == "text":
        source.write_text("\n".join(texts), encoding="utf-8")
    elif kind == "folder":
        source.mkdir()
        for i, text in enumerate(texts):
            (source / f"{i:03d}.txt").write_text(text, encoding="utf-8")
    elif kind == "parquet":
        table = pytest.importorskip("pyarrow").table({"text": texts})
        pytest.importorskip("pyarrow.parquet").write_table(table, source, row_group_size=9)
    else:
        write_lines(source, texts)
    make(source, tmp_path / "whole", "bpe", vocab_size=280)
    whole = shards_of(tmp_path / "whole")
    real = engine.ShardWriter.add
    for stop in (1, 3):
        calls = iter(range(100))

        def add(self: Any, block: Any, ids: Any) -> None:
            real(self, block, ids)
            if next(calls) == stop:  # noqa: B023
                raise KeyboardInterrupt

        monkeypatch.setattr(engine.ShardWriter, "add", add)
        with pytest.raises(KeyboardInterrupt):
            make(source, tmp_path / "out", "bpe", vocab_size=280)
        assert not (tmp_path / "out").exists()
    monkeypatch.setattr(engine.ShardWriter, "add", real)
    notes: list[str] = []
    request = Request(str(source), tmp_path / "out", "bpe", vocab_size=280)
    prepare(request, Listener(notes.append))
    assert any(note.startswith("going on from") for note in notes)
    assert shards_of(tmp_path / "out") == whole


@given(st.text(st.sampled_from("ab \n.,1é\u00a0\u3000'"), min_size=2, max_size=60))
def test_a_cut_at_a_boundary_changes_no_token(text: str) -> None:
    data = text.encode("utf-8")
    end = pieces.boundary(data)
    safe = data[end - 1 : end] > b" " and data[end : end + 1] == b" "
    if not (0 < end < len(data) and safe):
        return
    ids = [MERGES.encode(part.decode()).tolist() for part in (data[:end], data[end:])]
    assert ids[0] + ids[1] == MERGES.encode(text).tolist()


MERGES = train("bpe", ["ab ab, a b.\n\n  1a'ab é  a\n b" * 20], 300)


def test_a_line_without_any_boundary_is_cut_between_characters() -> None:
    data = ("é" * 50).encode()
    assert pieces.boundary(data) == 98
    assert pieces.boundary(data[:99]) == 98


def test_a_huge_line_goes_through_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE", 64)
    file = tmp_path / "a.txt"
    file.write_text("é" * 5000, encoding="utf-8")
    corpus = make(file, tmp_path / "out")
    assert text_of(corpus, "train") == "é" * 4500


def test_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbf" + b"one\r\n" * 20)
    assert text_of(make(file, tmp_path / "out"), "train") == "one\r\n" * 18


def test_ids_of_a_large_vocabulary_take_four_bytes(tmp_path: Path) -> None:
    wide = train("char", ["".join(map(chr, range(0x10000, 0x10000 + 65537)))], 0)
    parts = [blocks.Part(chr(0x10000 + 65536), 0, 0, last=True)]
    found = blocks.encode(wide, parts, None)
    assert found.ids[0].dtype == np.dtype("<u4")
    assert found.ids[0].tolist() == [65536]


def test_gpt2_pieces_give_the_ids_of_the_whole(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE", 4096)
    file = shared_data / "wikitext2-valid.txt"
    gpt2 = choose("gpt2", shared_data / "gpt2-bpe")
    corpus = make(file, tmp_path / "out", "gpt2", vocab=shared_data / "gpt2-bpe")
    text = file.read_text(encoding="utf-8")
    whole = gpt2.encode(text[: int(len(text) * 0.9)])
    assert np.array_equal(corpus.train.gather([0], len(corpus.train))[0], whole)


def test_what_stands_beside_the_output_under_any_name_stays(tmp_path: Path) -> None:
    """Also OUT.old, where somebody may have put a corpus aside."""
    (tmp_path / "a.txt").write_text("text " * 100, encoding="utf-8")
    make(tmp_path / "a.txt", tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "out.old")
    for existing in ("keep", "overwrite"):
        make(tmp_path / "a.txt", tmp_path / "out", existing=existing)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "out", "out.old"]
    Corpus.open(tmp_path / "out.old")


def test_the_document_that_reaches_the_target_is_whole_however_many_blocks_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 1 << 20)
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.txt").write_text(f"{number}" * (3 << 20), encoding="utf-8")
    corpus = make(folder, tmp_path / "out", target_tokens=(3 << 20) + 100)
    lengths = [len(text_of(corpus, split)) for split in ("train", "val")]
    assert sum(lengths) == 2 * ((3 << 20) + len("<|endoftext|>"))
