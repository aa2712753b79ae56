"""Every view of the insides, as a command."""

import json
from pathlib import Path
from typing import Any

import pytest

from espalier import fit
from espalier.analyze.views import TAKES
from tests.analyze.test_command import call
from tests.train import tiny

ON = ["--device", "cpu", "--windows", "8", "--no-figures"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inside")
    corpus = tiny.corpus(folder / "data")
    for name, words in {
        "plain": ("model.block_size=16",),
        "bio": (
            "model.block=cortical", "model.block.neurons=[4, 2]", "model.stack=feedback",
            "model.stack.passes=2", "model.block_size=16",
        ),
    }.items():  # fmt: skip
        for _ in fit.fit(tiny.experiment(corpus, "train.max_iters=4", *words), folder / name):
            pass
    return folder


@pytest.mark.parametrize("run", ["plain", "bio"])
@pytest.mark.parametrize("view", TAKES)
def test_every_view_of_every_model(study: Path, capsys: Any, view: str, run: str) -> None:
    code, found, _ = call(capsys, "analyze", study / run, "--view", view, *ON)
    assert code == 0
    assert found["rows"]
    kept = json.loads((study / run / "results" / f"analyze-{view}.json").read_text("utf-8"))
    assert kept["rows"] == found["rows"]


def test_figures_of_matrices_bars_and_curves(study: Path, capsys: Any) -> None:
    pytest.importorskip("matplotlib", reason="figures need the extra 'plots'")
    for view, name in (("similarity", "cka"), ("ablation", "effect"), ("lens", "tokens")):
        words = ["--view", view, *ON[:-1]]
        _, found, _ = call(capsys, "analyze", study / "bio", *words)
        drawn = [file for file in found["files"] if file.endswith(f"{view}-{name}.png")]
        assert Path(drawn[0]).stat().st_size > 1000


def test_a_model_is_like_itself(study: Path, capsys: Any) -> None:
    words = ["--view", "similarity", "--against", study / "plain", *ON]
    _, found, _ = call(capsys, "analyze", study / "plain", *words)
    alike = [row["cka"] for row in found["rows"] if row["place"] == row["other"]]
    assert alike == pytest.approx([1.0] * 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--view", "heads", "--text", "a"], "--view heads takes no --text; it is for attention"),
        (["--view", "lens", "--against", "x"], "--view lens takes no --against"),
        (["--view", "attention", "--only", "x"], "no head fits --only 'x'"),
        (["--view", "ablation", "--only", "x"], "no part or head fits --only 'x'"),
        (["--view", "patching", "--only", "x"], "no layer, part or head fits --only 'x'"),
        (["--view", "top", "--neurons", "a"], "--neurons takes numbers with commas, not 'a'"),
        (["--view", "probe", "--label", "nowhere.yaml"], "cannot read nowhere.yaml"),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    study: Path, capsys: Any, words: list[str], message: str
) -> None:
    code, found, _ = call(capsys, "analyze", study / "plain", *words, *ON)
    assert code == 2
    assert message in found["error"]
