"""Texts come as whole documents, whatever they are kept in."""

import json

import numpy as np
import pytest

from espalier.data.tokenizer.byte import ByteTokenizer
from espalier.errors import UserError
from espalier.evaluate.documents import read, spread


def prepared(folder, texts):
    """A corpus whose validation split holds the texts, each with an end of text behind it."""
    ids = np.concatenate([[*text.encode(), 256] for text in texts]).astype("<u2")
    folder.mkdir()
    for split in ("train", "val"):
        ids.tofile(folder / f"{split}.bin")
    shard = {"tokens": len(ids), "documents": len(texts), "max_id": 256}
    meta = {
        "format": "espalier-corpus-1",
        "vocab_size": 257,
        "tokenizer": ByteTokenizer(256).spec(),
        "shards": [{"file": f"{s}.bin", "split": s, **shard} for s in ("train", "val")],
    }
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    return str(folder)


def test_a_prepared_corpus_is_cut_at_its_ends_of_text(tmp_path):
    text = read(prepared(tmp_path / "c", ["one", "zwei ü", "three"]), None)
    assert [one.text for one in text.documents] == ["one", "zwei ü", "three"]
    assert [one.size for one in text.documents] == [3, 7, 5]
    assert text.spelled(ByteTokenizer(256))[1].tolist() == list("zwei ü".encode())


def test_another_tokenizer_spells_the_same_text(tmp_path):
    text = read(prepared(tmp_path / "c", ["one", "two"]), None)
    assert [ids.tolist() for ids in text.spelled(ByteTokenizer())] == [list(b"one"), list(b"two")]


def test_lines_of_json_and_a_corpus_of_them_are_the_same_text(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in ("one", "two")))
    own, made = read(str(file), None), read(prepared(tmp_path / "c", ["one", "two"]), None)
    assert own.digest == made.digest
    assert own.spec is None


def test_a_text_file_is_one_document(tmp_path):
    file = tmp_path / "t.txt"
    file.write_text("one\n\ntwo\n", encoding="utf-8")
    assert [one.text for one in read(str(file), None).documents] == ["one\n\ntwo\n"]


def test_a_few_documents_are_spread_evenly():
    assert list(spread("abcdefghij", 4)) == ["a", "c", "f", "h"]
    assert list(spread("abc", 7)) == ["a", "b", "c"]


def test_nothing_to_read_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="no source"):
        read(str(tmp_path / "absent"), None)
