"""Runs that something has happened to: one line says what, and no damaged weight is used."""

import shutil
from pathlib import Path

import pytest

from espalier import cli
from espalier.run import MODEL, Run
from tests.pretrained.layouts import write_nanogpt


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    write_nanogpt(tmp_path / "ckpt.pt")
    text = tmp_path / "text.txt"
    text.write_text("abcdefghijklmnopqrstuvwxyz .\n" * 9, encoding="utf-8")
    corpus, out = str(tmp_path / "corpus"), str(tmp_path / "run")
    assert cli.main(["prepare", str(text), "--tokenizer", "char", "--out", corpus]) == 0
    source = str(tmp_path / "ckpt.pt")
    assert cli.main(["import", source, "--tokenizer", corpus, "--out", out]) == 0
    capsys.readouterr()
    return Run.open(out)


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What is complained of, in one line, with the user's exit code."""
    code = cli.main([*map(str, words)])
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1), error
    return error


def test_a_torn_tokenizer_is_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    (run.path / "tokenizer.json").write_text("{", encoding="utf-8")
    assert "tokenizer.json is damaged" in said(capsys, "sample", run.path)


def test_a_torn_summary_is_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.result("train", {}).write_text("[", encoding="utf-8")
    assert "train.json is damaged" in said(capsys, "train", "--resume", run.path)
    assert "train.json is damaged" in said(capsys, "report", run.path)


def test_flipped_weights_are_used_by_no_way_of_naming_them(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run.latest()
    assert folder is not None
    content = bytearray((folder / MODEL).read_bytes())
    content[-1] ^= 1
    (folder / MODEL).write_bytes(content)
    number = run.steps()[0]
    for words in ([run.path], [run.path, "--step", number], [folder]):
        assert "has changed since it was written" in said(capsys, "sample", *words)


def test_a_checkpoint_away_from_its_run_is_named(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run.checkpoint(run.steps()[0]), tmp_path / "copied")
    assert "a checkpoint away from its run" in said(capsys, "sample", tmp_path / "copied")
