"""What `prepare` will not take: one clear line each, and nothing half-written."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from espalier import lock
from espalier.data.prepare import prepare
from espalier.data.request import Request
from espalier.errors import MachineError, UserError

GOOD = b'{"text": "fine"}\n{"text": "also fine"}\n'


def file(name: str, data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def folder(*names: str) -> Callable[[Path], Path]:
    def write(place: Path) -> Path:
        (place / "in").mkdir()
        for name in names:
            (place / "in" / name).write_bytes(GOOD)
        return place / "in"

    return write


CASES: list[tuple[str, Callable[[Path], Path | str], str]] = [
    ("empty file", file("a.txt", b""), r"is empty: there is nothing to learn from"),
    ("only newlines", file("a.txt", b"\n\r\n  \n"), r"has only blank lines"),
    ("one character", file("a.txt", b"x"), r"has 1 characters: .* leave a part empty"),
    ("latin-1", file("a.txt", b"caf\xe9"), r"not UTF-8: byte 3 is 0xe9.*--errors replace"),
    ("far byte", file("a.txt", b"a b\n" * 500_000 + b"\xff"), r"byte 2000000 is 0xff"),
    ("utf-16", file("a.txt", "text".encode("utf-16")), r"is UTF-16"),
    ("zip", file("a.txt", b"PK\x03\x04...."), r"is a zip archive"),
    ("gzip", file("a.txt", gzip.compress(b"text")), r"is gzip data: unpack it first"),
    ("pdf", file("a.txt", b"%PDF-1.7"), r"is a PDF"),
    ("nothing there", lambda place: place / "none.txt", r"no source '.*none.txt'"),
    ("glob without hits", lambda place: f"{place}/*.txt", r"matches no file"),
    ("empty folder", folder(), r"matches no file"),
    ("mixed folder", folder("a.txt", "b.jsonl"), r"holds jsonl and text files"),
    ("bad line", file("a.jsonl", GOOD + b"{not json}\n"), r"line 3: not JSON .*--skip-bad"),
    ("line of a number", file("a.jsonl", GOOD + b"5\n"), r"line 3: not a record but a number"),
    ("null text", file("a.jsonl", GOOD + b'{"text": null}\n'), r"line 3: 'text' is null"),
    (
        "no text key",
        file("a.jsonl", b'{"body": "x", "id": 3}\n'),
        r"line 1: no 'text'. Keys there: body, id. Use --text-key",
    ),
    ("surrogate", file("a.jsonl", GOOD + b'{"text": "\\ud800"}\n'), r"line 3: half of a surrogate"),
    ("one record", file("a.jsonl", b'{"text": "x"}\n'), r"one document only"),
    ("no records", file("a.jsonl", b"\n\n"), r"has no text to learn from"),
    ("not gzip", file("a.jsonl.gz", GOOD), r"is damaged or no gzip file"),
    ("cut gzip", file("a.jsonl.gz", gzip.compress(GOOD)[:-9]), r"is damaged or no gzip file"),
    ("not parquet", file("a.parquet", b"nothing"), r"is not a parquet file"),
]


@pytest.mark.parametrize(("what", "write", "message"), CASES, ids=[case[0] for case in CASES])
def test_unusable_input_is_one_clear_line_and_leaves_nothing(
    tmp_path: Path, what: str, write: Callable[[Path], Path | str], message: str
) -> None:
    source = write(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        prepare(Request(str(source), tmp_path / "out", "byte"))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_column_that_is_missing_lists_the_columns(tmp_path: Path) -> None:
    table = pytest.importorskip("pyarrow").table({"body": ["x"], "id": [1]})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"no column 'text'. Columns there: body, id"):
        prepare(Request(str(tmp_path / "a.parquet"), tmp_path / "out", "byte"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": "cahr"}, r"no tokenizer named 'cahr'. Did you mean 'char'"),
        ({"tokenizer": "bpe", "vocab_size": 100}, r"--vocab-size must be at least 257"),
        ({"val_fraction": 1.5}, r"--val-fraction must lie between 0 and 1"),
        ({"shards": 0}, r"--shards must be at least 1"),
        ({"shards": 50}, r"leave a part empty"),
        ({"target_tokens": 10}, r"--target-tokens is for many documents"),
        ({"local": Path("x")}, r"--from is for shakespeare"),
        ({"tokenizer": "byte", "vocab_size": 300}, r"--vocab-size is for --tokenizer bpe"),
        ({"tokenizer": "char", "vocab": Path("x")}, r"--vocab is for a published tokenizer"),
        ({"text_key": "body"}, r"--text-key is for records"),
        ({"bad": "skip"}, r"--skip-bad is for records"),
    ],
)
def test_impossible_options_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "a.txt").write_bytes(b"some text\n")
    with pytest.raises(UserError, match=message):
        prepare(Request(str(tmp_path / "a.txt"), tmp_path / "out", **options))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_too_many_shards_for_the_documents(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    with pytest.raises(UserError, match=r"2 documents are too few for --shards 9"):
        prepare(Request(str(tmp_path / "a.jsonl"), tmp_path / "out", "byte", shards=9))


def test_the_output_is_never_the_input(tmp_path: Path) -> None:
    source = folder("a.txt")(tmp_path)
    for source_, out in ((source, source), (source, source / "out"), (source / "a.txt",) * 2):
        with pytest.raises(UserError, match="--out"):
            prepare(Request(str(source_), out, "byte"))


def test_what_is_already_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"some text to learn\n")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_bytes(b"x")
    request = Request(str(tmp_path / "a.txt"), tmp_path / "home", "byte", existing="overwrite")
    with pytest.raises(UserError, match="is no corpus of espalier's"):
        prepare(request)
    prepare(Request(str(tmp_path / "a.txt"), tmp_path / "out", "byte"))
    with pytest.raises(UserError, match=r"another corpus \(other tokenizer\).*--overwrite"):
        prepare(Request(str(tmp_path / "a.txt"), tmp_path / "out", "char"))


def test_a_full_disk_is_seen_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_bytes(b"some text to learn\n")
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=1))
    with pytest.raises(MachineError, match=r"are needed in .*, 1 bytes are free"):
        prepare(Request(str(tmp_path / "a.txt"), tmp_path / "out", "byte"))


def test_nobody_else_may_write_the_same_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"some text to learn\n")
    (tmp_path / "out.partial").mkdir()
    with (
        lock.hold(tmp_path / "out.partial" / "lock"),
        pytest.raises(UserError, match=r"out\.partial is in use by process"),
    ):
        prepare(Request(str(tmp_path / "a.txt"), tmp_path / "out", "byte"))


def test_several_lines_are_skipped_when_asked(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"document {i}"}) for i in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, "{", "null", "[]"]), encoding="utf-8")
    request = Request(str(tmp_path / "a.jsonl"), tmp_path / "out", "byte", bad="skip")
    assert prepare(request).meta["documents"]["skipped"] == 3
