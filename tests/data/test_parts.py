"""A corpus made in parts is, byte for byte, the one that a single process makes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from espalier.commands.prepare import prepare as command
from espalier.data import blocks, parts, pieces
from espalier.data import prepare as engine
from espalier.data.corpus import Corpus
from espalier.data.parts import Part, prepare_part
from espalier.data.prepare import prepare
from espalier.data.request import Listener, Request
from espalier.errors import UserError
from tests.data.test_prepare import documents, make, shards_of, write_lines


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks of little text."""
    monkeypatch.setattr(blocks, "BLOCK", 300)
    monkeypatch.setattr(pieces, "PIECE", 100)


def in_parts(request: Request, count: int) -> Corpus:
    found: Corpus | list[int] = []
    for index in (*range(1, count), 0):  # the first one comes last, and joins
        found = prepare_part(request, Part(index, count), Listener())
    assert isinstance(found, Corpus)
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 60])
@pytest.mark.parametrize(
    ("tokenizer", "shards"), [("byte", 1), ("char", 3), ("bpe", 2)], ids=["byte", "char", "bpe"]
)
def test_parts_of_many_documents_are_joined_to_the_same_bytes(
    tmp_path: Path, tokenizer: str, shards: int, count: int
) -> None:
    file = write_lines(tmp_path / "a.jsonl", [*documents(200), "", *documents(3)])
    size: dict[str, Any] = {"vocab_size": 300} if tokenizer == "bpe" else {}
    whole = make(file, tmp_path / "whole", tokenizer, shards=shards, val_fraction=0.2, **size)
    request = Request(str(file), tmp_path / "x", tokenizer, shards=shards, val_fraction=0.2, **size)
    joined = in_parts(request, count)
    assert shards_of(joined.path) == shards_of(whole.path)
    assert [path.name for path in tmp_path.glob("x*")] == ["x"]


def test_parts_of_one_text_are_joined_to_the_same_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("some words of one text\n" * 100, encoding="utf-8")
    whole = make(file, tmp_path / "whole")
    joined = in_parts(Request(str(file), tmp_path / "x", "byte"), 3)
    assert shards_of(joined.path) == shards_of(whole.path)


def test_until_the_last_part_is_there_the_others_are_named(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", documents(50))
    request = Request(str(file), tmp_path / "x", "byte")
    assert prepare_part(request, Part(1, 3), Listener()) == [1, 3]
    assert prepare_part(request, Part(0, 3), Listener()) == [3]
    assert prepare_part(request, Part(0, 3), Listener()) == [3]  # made already


def test_a_part_that_was_killed_goes_on_from_its_last_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_lines(tmp_path / "a.jsonl", documents(200))
    whole = make(file, tmp_path / "whole")
    request = Request(str(file), tmp_path / "x", "byte")
    prepare_part(request, Part(1, 2), Listener())

    class Killed(BaseException):
        pass

    blocks_written = []
    real = parts._Lengths.add

    def add(self: parts._Lengths, *given: object) -> None:
        real(self, *given)  # type: ignore[arg-type]
        blocks_written.append(given)
        if len(blocks_written) == 7:
            raise Killed

    monkeypatch.setattr(engine, "COMMIT_EVERY", 0.0)
    monkeypatch.setattr(parts._Lengths, "add", add)
    with pytest.raises(Killed):
        prepare_part(request, Part(0, 2), Listener())
    state = json.loads((tmp_path / "x.part-00001-of-00002.partial/state.json").read_text("utf-8"))
    assert state["keys"] > 0
    joined = prepare_part(request, Part(0, 2), Listener())
    assert isinstance(joined, Corpus)
    assert shards_of(joined.path) == shards_of(whole.path)
    once = len(blocks_written)
    assert once < 2 * 7 + 20  # nothing that was committed is encoded again


def test_parts_made_elsewhere_are_copied_beside_the_others(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", documents(50))
    here, there = (Request(str(file), tmp_path / host / "x", "byte") for host in ("a", "b"))
    assert prepare_part(there, Part(0, 2), Listener()) == [2]
    name = "x.part-00001-of-00002"
    (tmp_path / "a").mkdir()
    shutil.copytree(tmp_path / "b" / name, tmp_path / "a" / name)
    assert isinstance(prepare_part(here, Part(1, 2), Listener()), Corpus)


def test_too_few_documents_for_parts_are_prepared_in_one_piece(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", ["one", "two", "three"])
    whole = make(file, tmp_path / "whole")
    joined = in_parts(Request(str(file), tmp_path / "x", "byte"), 2)
    assert shards_of(joined.path) == shards_of(whole.path)
    assert [path.name for path in tmp_path.glob("x*")] == ["x"]


def test_a_part_of_another_corpus_is_refused(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", documents(50))
    prepare_part(Request(str(file), tmp_path / "x", "byte"), Part(0, 2), Listener())
    with pytest.raises(UserError, match="part-00001-of-00002 is a part of another corpus"):
        prepare_part(Request(str(file), tmp_path / "x", "char"), Part(1, 2), Listener())


def test_what_counts_through_the_whole_text_does_not_go_with_parts(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", documents(50))
    request = Request(str(file), tmp_path / "x", "byte", target_tokens=100)
    with pytest.raises(UserError, match="--target-tokens counts through the whole text"):
        prepare_part(request, Part(0, 2), Listener())


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/3", "1/0", "-1/3"])
def test_a_shard_is_written_as_one_of_so_many(text: str) -> None:
    with pytest.raises(UserError, match="write i/N"):
        parts.parse(text)


def test_the_command_says_what_is_still_to_come_and_then_what_it_made(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", documents(50))
    out = tmp_path / "x"
    first = command(str(file), tokenizer="byte", out=out, shard="2/2")
    assert first == {"part": str(tmp_path / "x.part-00002-of-00002"), "missing": [1]}
    last = command(str(file), tokenizer="byte", out=out, shard="1/2")
    assert last["corpus"] == str(out)
    assert prepare(Request(str(file), out, "byte")).digest == last["digest"]
