"""A directory holds one study: what a table could not tell apart is refused before any run."""

import json
from pathlib import Path

import pytest

from espalier import cli
from espalier.data.corpus import Corpus
from espalier.errors import ConfigError
from espalier.study import plan
from espalier.study.book import COMPLETE, STARTED, Book
from espalier.study.plan import Trial

GRID = "recipe: shakespeare-char-cpu\nseeds: [1]\ngrid: {train.learning_rate: [1.0e-3, 1.0e-2]}\n"
FORGE = "n_layer: [1, 2]\nn_head: 4\nn_embd: 64\n"


@pytest.fixture(autouse=True)
def _any_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus wherever it is said to be, of as many symbols as its name has letters."""

    class Symbols:
        def __init__(self, place: str):
            self.vocab_size = len(place)

    monkeypatch.setattr(Corpus, "open", Symbols)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    book = Book(tmp_path / "study")
    for name in ("trials", "runs"):
        (book.place / name).mkdir(parents=True)
    return book


def trials(book: Book, text: str, *overrides: str) -> list[Trial]:
    file = book.place.parent / "sweep.yaml"
    file.write_text(text, encoding="utf-8")
    return plan.read(file, overrides or ["data.corpus=data/x"])


def finish(book: Book, found: list[Trial]) -> None:
    for trial in found:
        book.recipe(trial)
        results = book.run(trial) / "results"
        results.mkdir(parents=True)
        (results / "train.json").write_text(json.dumps({"val_loss": 1.0}), encoding="utf-8")
        book.note(COMPLETE, trial)


@pytest.mark.parametrize("text", [GRID, FORGE])
def test_another_corpus_is_refused_by_its_path_and_both_values(book: Book, text: str) -> None:
    finish(book, trials(book, text))
    with pytest.raises(ConfigError) as caught:
        book.refuse_others(trials(book, text, "data.corpus=data/wikitext"))
    said = str(caught.value)
    assert said.startswith(f"data.corpus is data/x in the runs of {book.place} and data/wikitext")
    assert "--out" in said
    assert "\n" not in said


def test_another_part_is_refused_by_its_name(book: Book) -> None:
    finish(book, trials(book, GRID))
    with pytest.raises(ConfigError, match=r"^model\.block\.norm is layer .* and rms here"):
        book.refuse_others(
            trials(book, GRID, "data.corpus=data/x", "model.block.norm=rms"),
        )


@pytest.mark.parametrize(
    "wider",
    [
        GRID.replace("1.0e-2]", "1.0e-2, 1.0]"),
        GRID.replace("[1.0e-3, 1.0e-2]", "[1.0]"),
        GRID.replace("[1]", "[1, 2, 3]"),
        GRID.replace("grid: {", "grid: {model.block.norm: [rms, layer], "),
        GRID.replace("train.learning_rate: [1.0e-3, 1.0e-2]", "model.n_layer: [1]"),
    ],
)
def test_a_study_may_grow(book: Book, wider: str) -> None:
    finish(book, trials(book, GRID))
    book.refuse_others(trials(book, wider))


def test_an_old_setting_may_be_fixed_later(book: Book) -> None:
    finish(book, trials(book, GRID))
    book.refuse_others(trials(book, "recipe: shakespeare-char-cpu\nset: {data.corpus: data/x}"))


def test_a_vocabulary_follows_a_corpus_that_is_varied(book: Book) -> None:
    text = "recipe: shakespeare-char-cpu\ngrid: {{data.corpus: [{}]}}\n"
    finish(book, trials(book, text.format("data/x, data/wiki"), "seed=1"))
    book.refuse_others(trials(book, text.format("data/shakespeare"), "seed=1"))


def test_what_has_not_come_to_its_end_is_in_no_table(book: Book) -> None:
    (first, *_) = trials(book, GRID)
    book.recipe(first)
    book.note(STARTED, first)
    book.refuse_others(trials(book, GRID, "data.corpus=data/wikitext"))


def test_the_command_ends_with_two_and_leaves_the_study_as_it_was(
    book: Book, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(book, trials(book, GRID))
    file, before = str(book.place.parent / "sweep.yaml"), book.records()
    words = ["sweep", file, "data.corpus=data/other", "--out", str(book.place), "--dry-run"]
    assert cli.main(words) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: data.corpus is data/x in")
    assert book.records() == before
