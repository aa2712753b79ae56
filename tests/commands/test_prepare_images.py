"""`espalier prepare` of samples with images, as it is typed."""

import json
from pathlib import Path

import pytest

from espalier.cli import main
from espalier.data.corpus import Corpus
from tests.data.pictures import png

pytestmark = pytest.mark.usefixtures("_here")


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def receipts(*colours: str) -> None:
    Path("receipts/images").mkdir(parents=True)
    records = []
    for colour in colours:
        Path(f"receipts/images/{colour}.png").write_bytes(png(colour))
        image = f"images/{colour}.png"
        records.append(
            {"id": colour, "image": image, "prompt": "<image>\nFree OCR.", "answer": colour}
        )
    Path("receipts/train.json").write_text(json.dumps(records), encoding="utf-8")


def test_drawn_samples_need_nothing(capsys):
    words = ["synthetic-ocr", "--samples=11", "kinds=lines", "side=128", "lines=2", "questions=0"]
    assert main(["prepare", *words, "--out", "lines", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["documents"] == {"train": 10, "val": 1}
    assert found["images"]["count"] == 11
    assert found["images"]["mode"] == 128
    assert found["vocab_size"] == 256 + 5 + 1, "bytes, what nanochat's template adds, the image"
    Corpus.open("lines").verify()


@pytest.mark.parametrize("spelled", [["--data-dir", "receipts"], ["--data_dir=receipts"]])
def test_a_folder_is_given_as_nano_deepseek_ocr_spells_it(spelled, capsys):
    receipts("red", "blue", "one", "two")
    assert main(["prepare", *spelled, "--out", "c", "--image-mode", "tiny", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(found["documents"].values()) == 4
    assert found["images"]["mode"] == "tiny"


def test_the_folder_that_one_is_in_is_no_source_unless_it_is_named(monkeypatch, capsys):
    receipts("red", "blue")
    monkeypatch.chdir("receipts")
    assert main(["prepare"]) == 2
    assert "say which source" in capsys.readouterr().err


def test_what_is_left_out_is_told(capsys):
    receipts("red", "blue")
    records = json.loads(Path("receipts/train.json").read_text(encoding="utf-8"))
    records.append(records[0] | {"id": "gone", "image": "images/gone.png"})
    Path("receipts/train.json").write_text(json.dumps(records), encoding="utf-8")
    assert main(["prepare", "receipts", "--out", "c"]) == 0
    told = capsys.readouterr()
    assert "left out: gone: images/gone.png cannot be read: No such file" in told.err
    assert "left out: 1, listed in c/left-out.jsonl" in told.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["synthetic-ocr", "kinds=poem"], "kinds.0 must be 'receipt', 'chart', 'page' or 'lines'"),
        (["synthetic-ocr", "--from", "here"], "reads nothing"),
        (["synthetic-ocrs"], "Did you mean 'synthetic-ocr'?"),
        (["fox"], "unzip it, and give --from DIR"),
        (["receipts", "--data-dir", "receipts"], "is the source itself"),
        (["text.txt", "--samples", "3"], "are for samples with images"),
        (["--data-dir", "receipts", "--image-mode", "hge"], "no image mode 'hge'"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, message, capsys):
    receipts("red", "blue")
    Path("text.txt").write_text("text", encoding="utf-8")
    assert main(["prepare", *words, "--out", "c"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("c").exists()


def test_lines_with_images_and_lines_without_go_the_same_way(capsys):
    receipts("red", "blue")
    shown = {"type": "image", "image": "receipts/images/red.png"}
    talks = [[shown, {"type": "text", "text": "What?"}], "Who?", "Why?"]
    lines = [
        {"messages": [{"role": "user", "content": one}, {"role": "assistant", "content": "So."}]}
        for one in talks
    ]
    Path("talks.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert main(["prepare", "talks.jsonl", "--chat", "chatml", "--out", "c", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"]["count"] == 1
    assert sum(found["documents"].values()) == 3
