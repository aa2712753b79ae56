"""`espalier sample --image` and `--check-cache`, and what a run with images says."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from espalier.api import Loaded
from espalier.cli import main
from espalier.commands.prepare import Images, prepare
from tests.train.test_reading import SMALL


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that learnt two pages by heart as far as six updates go, and a page."""
    folder = tmp_path_factory.mktemp("seeing")
    settings = ("kinds=lines", "side=128", "lines=2", "questions=0")
    prepare("synthetic-ocr", *settings, images=Images(samples=4), out=folder / "pages")
    words = ["train", "deepseek-ocr-tiny", f"data.corpus={folder / 'pages'}", *SMALL]
    assert main([*words, "train.max_iters=6", "--device", "cpu", "--out", str(folder / "run")]) == 0
    return folder / "run", next((folder / "pages" / "images").rglob("*.png"))


def ask(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, object]:
    capsys.readouterr()
    given = ["sample", *map(str, words), "--device", "cpu", "--max-new-tokens", "12", "--json"]
    assert main(given) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_an_image_is_answered(
    reader: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, page = reader
    found = ask(capsys, run, "--image", page, "--prompt", "Free OCR.")
    again = ask(capsys, run, "--image", page, "--image", page, "--prompt", "Free OCR.")
    assert found["images"] == [str(page)]
    assert again["images"] == [str(page)] * 2
    assert isinstance(found["samples"], list)
    assert found["samples"][0]["tokens"] <= 12


@pytest.mark.parametrize("image", [True, False])
def test_the_cache_is_held_against_full_passes(
    reader: tuple[Path, Path], capsys: pytest.CaptureFixture[str], image: bool
) -> None:
    run, page = reader
    words = [run, "--check-cache", "--prompt", "Free OCR.", *(["--image", page] if image else [])]
    found = ask(capsys, *words)
    assert found["match"] is True
    assert found["tokens"] == 12


def test_loops_and_n_grams_are_options_of_the_command(
    reader: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, page = reader
    more = ["--no-repeat-ngram", 1, 90, "--stop-loops"]
    found = ask(capsys, run, "--image", page, "--prompt", "Free OCR.", *more)
    assert isinstance(found["samples"], list)
    assert found["samples"][0]["finish"] in {"stop", "length"}


def test_too_many_images_for_the_block_are_refused(
    reader: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, page = reader
    files = [word for _ in range(20) for word in ("--image", str(page))]
    assert main(["sample", str(run), *files, "--prompt", "x", "--device", "cpu"]) == 2
    assert "the model reads 128" in capsys.readouterr().err


def test_a_text_after_an_image_ends_before_a_stop_string(
    reader: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, page = reader
    words = [run, "--image", page, "--prompt", "Free OCR.", "--temperature", 2]
    free = ask(capsys, *words)["samples"][0]["text"]  # type: ignore[index]
    cut = ask(capsys, *words, "--stop", free[4:6])["samples"][0]  # type: ignore[index]
    assert (cut["text"], cut["finish"]) == (free[: free.index(free[4:6])], "stop")


def test_a_penalty_holds_without_a_temperature(
    reader: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, page = reader
    words = [run, "--image", page, "--prompt", "Free OCR.", "--repetition-penalty", 100]
    assert ask(capsys, *words) == ask(capsys, *words, "--temperature", 0)


def test_weights_are_kept_as_asked_beside_an_image(
    reader: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, page = reader
    asked: list[str] = []
    packed = Loaded.packed
    monkeypatch.setattr(Loaded, "packed", lambda own, kept: asked.append(kept) or packed(own, kept))
    ask(capsys, run, "--image", page, "--prompt", "Free OCR.", "--weights", "int8")
    assert asked == ["int8"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image", "x.png", "--draft", "y"], "--image does not go with --draft"),
        (["--image", "x.png", "--vector", "v"], "--image does not go with --vector"),
        (["--image", "x.png", "--save-vector", "v"], "--image does not go with --save-vector"),
        (["--image", "x.png", "--source", "0"], "--image does not go with --source"),
        (["--image", "x.png", "--interactive"], "--image does not go with --interactive"),
        (["--image", "x.png", "--colorize"], "--image does not go with --colorize"),
        (["--image", "x.png", "--heatmaps"], "--image does not go with --heatmaps"),
        (["--image", "x.png", "--top-k", "1", "--top-k", "2"], "several --top-k"),
        (["--check-cache", "--draft", "y"], "--check-cache does not go with --draft"),
        (["--check-cache", "--weights", "int8"], "does not go with --weights int8"),
        (["--check-cache", "--stop", "x"], "--check-cache does not go with --stop"),
    ],
)
def test_options_that_would_not_be_heeded_are_refused(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["sample", "nowhere", *words]) == 2
    assert message in capsys.readouterr().err


def chat(capsys: pytest.CaptureFixture[str], run: Path, *lines: str) -> list[dict[str, object]]:
    capsys.readouterr()
    prompts = [word for line in lines for word in ("--prompt", line)]
    words = ["--temperature", "0", "--max-new-tokens", "12", "--device", "cpu", "--json"]
    assert main(["chat", str(run), *prompts, *words]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)["messages"]
    return found


def test_a_conversation_shows_an_image_with_the_next_message(
    reader: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, page = reader
    said = chat(capsys, run, f"/image {page}", "Free OCR.", "and?")
    alone = ask(capsys, run, "--image", page, "--prompt", "Free OCR.")
    assert [one["role"] for one in said] == ["user", "assistant"] * 2
    assert [one.get("images") for one in said] == [[str(page)], None, None, None]
    assert isinstance(alone["samples"], list)
    assert said[1]["content"] == alone["samples"][0]["text"].strip()


def test_an_image_is_forgotten_with_its_conversation(
    reader: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, page = reader
    typed = f"/image\n/image nowhere.png\n/image {page}\nclear\nFree OCR.\nquit\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert main(["chat", str(run), "--max-new-tokens", "2", "--device", "cpu", "--json"]) == 0
    shown = capsys.readouterr()
    assert "images" not in json.loads(shown.out)["messages"][0]
    assert "error: say which image: /image FILE" in shown.err
    assert "error: nowhere.png cannot be read" in shown.err


def test_corpora_of_one_name_have_pages_of_their_own(
    reader: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, page = shutil.copytree(reader[0], tmp_path / "run"), reader[1]
    pages = next(folder for folder in page.parents if folder.name == "pages")
    other = shutil.copytree(pages, tmp_path / "other" / "pages")
    words = ["evaluate", str(run), "--ocr", "--device", "cpu", "--max-new-tokens", "2"]
    both = ["--corpus", str(pages), "--corpus", str(other)]
    assert main([*words, *both]) == main([*words, "--corpus", str(other)]) == 0
    capsys.readouterr()
    files = {file.name: file.read_text() for file in (run / "results").glob("ocr-*.html")}
    assert files.keys() == {"ocr-pages.html", "ocr-pages-2.html"}
    assert f"reads {pages}" in files["ocr-pages.html"]
    assert f"reads {other}" in files["ocr-pages-2.html"]
