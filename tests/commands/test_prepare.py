"""`espalier prepare` as people call it."""

import json
from pathlib import Path

import pytest

from espalier.cli import main
from espalier.data.corpus import Corpus


def test_a_text_becomes_a_corpus_and_json_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my text.txt"
    file.write_text("to be or not to be\n" * 30, encoding="utf-8")
    out = tmp_path / "corpus"
    assert main(["prepare", str(file), "--tokenizer", "char", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == {"train": 513, "val": 57}
    assert found["tokenizer"] == "char"
    assert Corpus.open(out).digest == found["digest"]


def test_without_out_the_corpus_is_named_after_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hamlet.txt").write_text("to be or not to be\n" * 30, encoding="utf-8")
    assert main(["prepare", "hamlet.txt", "--tokenizer=byte"]) == 0
    assert (tmp_path / "data" / "hamlet" / "train.bin").stat().st_size == 2 * 513
    assert "513 training and 57 validation tokens" in capsys.readouterr().out


def test_numbers_may_be_written_as_powers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"document {i:04d}"}) for i in range(500)]
    file.write_text("\n".join(lines), encoding="utf-8")
    out = f"--out={tmp_path / 'out'}"
    assert (
        main(["prepare", str(file), "--tokenizer=byte", "--target-tokens=2e3", out, "--json"]) == 0
    )
    assert sum(json.loads(capsys.readouterr().out)["tokens"].values()) == 2002  # 143 of 14


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.txt"], 2, "no source 'none.txt'"),
        (["python-stdlb"], 2, "Did you mean 'python-stdlib'?"),
        (["empty.txt"], 2, "is empty"),
        (["good.txt", "--tokenizer=gtp2"], 2, "Did you mean 'gpt2'?"),
        (["good.txt", "--target-tokens=nan"], 2, "--target-tokens must be a finite number"),
        (["good.txt", "--target-tokens=inf"], 2, "--target-tokens must be a finite number"),
        (["empty.txt"], 2, "error: empty.txt is empty"),
        ([""], 2, "say which source"),
        (["hf:"], 2, "say which source"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").touch()
    Path("good.txt").write_text("good\n" * 30, encoding="utf-8")
    assert main(["prepare", *arguments]) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not Path("data").exists()
