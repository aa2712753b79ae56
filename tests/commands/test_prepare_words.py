"""`espalier prepare` as it is typed: plug-ins, new ones, several sources, statistics."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from espalier.cli import main


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_plugin_takes_settings_and_counts_its_tokens(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["prepare", "arithmetic", "digits=1", "count=100", "--out", "a", "--stats", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    train = found["statistics"]["train"]
    assert train["types"] == found["vocab_size"] == 13  # ten digits, +, = and the end
    assert train["tokens"] == found["tokens"]["train"]


def test_new_writes_a_plugin_that_prepares(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "new", "mine"]) == 0
    assert "Use it: espalier prepare ./mine.py" in capsys.readouterr().out
    assert main(["prepare", "./mine.py", "count=30"]) == 0
    assert Path("data/mine/train.bin").is_file()
    assert main(["prepare", "new"]) == 2


def test_statistics_of_what_is_there_make_nothing_new(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.txt").write_text("to be or not to be\n" * 20, encoding="utf-8")
    assert main(["prepare", "a.txt", "--tokenizer", "char", "--out", "a"]) == 0
    capsys.readouterr()
    assert main(["prepare", "a", "--stats"]) == 0
    said = capsys.readouterr().out
    assert "train: 342 tokens of 8 types" in said
    assert "1.000 bytes of text to a token" in said
    assert sorted(file.name for file in Path().iterdir()) == ["a", "a.txt"]


def test_what_fell_back_to_bytes_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.txt").write_text("abx" * 40, encoding="utf-8")
    Path("list.txt").write_text("ab\n", encoding="utf-8")
    assert main(["prepare", "a.txt", "--tokenizer", "custom-byte:list.txt"]) == 0
    assert "40 bytes fell back to single bytes (33.333% of them)" in capsys.readouterr().out


def test_statistics_of_nanogpts_own_directory(capsys: pytest.CaptureFixture[str]) -> None:
    Path("theirs").mkdir()
    for split in ("train", "val"):
        np.array([0, 1, 1, 1], "<u2").tofile(f"theirs/{split}.bin")
    meta = pickle.dumps({"vocab_size": 2, "stoi": {"a": 0, "b": 1}})
    Path("theirs/meta.pkl").write_bytes(meta)
    assert main(["prepare", "theirs", "--stats"]) == 0
    assert "commonest: 'b' 3, 'a' 1" in capsys.readouterr().out
