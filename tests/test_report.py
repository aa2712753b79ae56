"""A run's page: whole, self-contained, and honest about what is missing."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from espalier import report
from espalier.errors import UserError
from espalier.report import headline, page, reading
from espalier.run import MODEL, Run

pytest.importorskip("matplotlib", reason="curves need the extra 'plots'")

CONFIG: dict[str, Any] = {
    "seed": 7,
    "model": {"n_layer": 2, "n_embd": 8, "n_head": 2, "block_size": 16},
    "data": {"corpus": "corpora/tiny"},
    "train": {"max_iters": 40},
    "evaluate": {"eval_iters": None},
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run.create(tmp_path / "a <run>", CONFIG, {"cpu": "some & other", "cores": 2})
    for step in range(0, 41, 10):
        loss = 4.0 - step / 20
        made.log(
            {"kind": "train", "step": step, "loss": loss, "lr": 1e-3, "grad_norm": 1.0, "ms": 5.0}
            | {"tokens": step * 32, "tokens_per_s": 6400.0, "mfu": None, "time": step / 10}
        )
        made.log({"kind": "eval", "step": step, "val_loss": loss + 0.25, "time": step / 10})
    made.log({"kind": "sample", "step": 40, "text": "if a < b & c:"})
    made.log({"kind": "event", "step": 30, "message": "loss was NaN; the update was left out"})
    made.result("loss", {"perplexity": 9.5, "by": {"file": 2}})
    tensors = {"w": np.zeros((4, 8), np.float32), "b": np.zeros(8, np.float32)}
    made.commit(40, lambda folder: save_file(tensors, folder / MODEL), {"val_loss": 2.25})
    return made


class Links(HTMLParser):
    """Everything a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"src", "href", "xlink:href", "data", "srcset"}
        self.found += [value for name, value in attrs if name in names and value]


def test_the_page_fetches_nothing(run: Run) -> None:
    text = report.write(run.path).read_text(encoding="utf-8")
    links = Links()
    links.feed(text)
    assert [link for link in links.found if not link.startswith("#")] == []
    assert "@import" not in text
    assert "<script" not in text


def test_the_page_holds_what_the_run_says(run: Run) -> None:
    text = page.page(reading.read(run.path))
    for wanted in (
        "a &lt;run&gt;",
        "if a &lt; b &amp; c:",
        "some &amp; other",
        "corpus: corpora/tiny",
        "step 30: loss was NaN",
        "by.file",
        "model.safetensors",
    ):
        assert wanted in text
    assert text.count("<svg") == 4  # loss, learning rate, speed, gradient norm; MFU is unknown


def test_the_headline_is_worked_from_the_records(run: Run) -> None:
    numbers = {n.name: n for n in headline.numbers(reading.read(run.path))}
    assert numbers["validation loss"].value == "2.250"
    assert numbers["validation loss"].note == "perplexity 9.49; was 4.250 at step 0"
    assert numbers["training loss"].value == "2.000"
    assert numbers["parameters"].value == "40"
    assert numbers["tokens seen"].value == "1.28k"
    assert numbers["tokens per second"].note == "median; MFU n/a"
    assert numbers["time"].value == "4.0 s"


def test_a_run_that_stopped_early_says_so(run: Run) -> None:
    story = reading.read(run.path)
    assert not any("has not finished" in line for line in page.caveats(story))
    planned = {**CONFIG, "train": {"max_iters": 100}, "evaluate": {"eval_iters": 20}}
    words = "\n".join(page.caveats(reading.Story(**{**vars(story), "config": planned})))
    assert "step 40 of 100" in words
    assert "estimate from 20 windows" in words
    assert "one seed (7)" in words


def test_a_run_that_has_not_begun_has_a_page(tmp_path: Path) -> None:
    bare = Run.create(tmp_path / "bare", {"seed": 1}, {})
    text = report.write(bare.path, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "nothing was measured on held-out text" in text
    assert "<svg" not in text


def test_thinning_takes_means_of_bins() -> None:
    assert reading.thin([0, 1, 2, 3], [1.0, 3.0, 5.0, 7.0], most=2) == ([0.5, 2.5], [2.0, 6.0])


def test_no_run_no_page(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run at"):
        report.write(tmp_path / "absent")


def test_a_place_where_no_file_can_stand_is_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a directory: name a file"):
        report.write(run.path, tmp_path)
    with pytest.raises(UserError, match="absent is no directory"):
        report.write(run.path, tmp_path / "absent" / "x.html")


def test_a_report_needs_no_torch(run: Run) -> None:
    code = (
        "import sys; from pathlib import Path; from espalier import report;"
        "report.write(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(run.path)], check=False).returncode == 0
