"""A study's page and its numbers: what goes with the loss, what is beaten by none, what failed."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from espalier import cli
from espalier.commands import sweep
from espalier.config import encode, refine
from espalier.errors import UserError
from espalier.experiment import Experiment, load
from espalier.report import figures, html
from espalier.report import study as report
from espalier.report.study import front, importance, page, parallel, reading
from espalier.report.study.importance import grouped, ranks, share, shares
from espalier.tree import dump
from tests.study.made import Made

NORM, RATE, DEPTH = "model.block.norm", "train.learning_rate", "model.n_layer"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Twelve configurations: the norm decides, a deeper model is better and larger, one failed."""
    made = Made(tmp_path / "a <study>")
    for norm, high in (("rms", 0.0), ("layer", 1.0)):
        for number, rate in enumerate((0.001, 0.01, 0.1)):
            for depth in (2, 4):
                loss = 2.0 + high + 0.01 * number - 0.05 * depth
                settings = {NORM: norm, RATE: rate, DEPTH: depth}
                made.end(settings, loss, parameters=1000 * depth)
    made.begin({NORM: "rms", RATE: 1.0, DEPTH: 2})
    made.note("FAILED", {NORM: "rms", RATE: 1.0, DEPTH: 2}, error="loss was NaN at <step> 3")
    return made


def test_equal_losses_share_the_mean_of_their_ranks_and_none_is_last() -> None:
    assert ranks([2.0, 1.0, None, 2.0, 5.0]) == [2.5, 1.0, 5.0, 2.5, 4.0]


def test_a_setting_that_splits_the_ranks_in_two_has_its_share() -> None:
    # ranks 1 2 | 3 4: S_t = 5, S_w = 0.5 + 0.5, so 1 - (1 / 2) / (5 / 3)
    assert share([1, 2, 3, 4], [0, 0, 1, 1]) == pytest.approx(0.7)
    assert share([1, 2, 3, 4], [0, 1, 1, 0]) == pytest.approx(1 - (5 / 2) / (5 / 3))


def test_many_numbers_are_four_groups_and_few_are_their_own() -> None:
    assert grouped([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert grouped([4, 2, 4]) == [0, 1, 0]
    assert grouped(["rms", None, True]) == [0, 1, 2]


def test_what_decides_stands_first_and_what_does_not_is_no_more_than_luck(made: Made) -> None:
    found = reading.read(made.place)
    values = [found.values[point.configuration] for point in found.points]
    losses = [point.loss.mean for point in found.points if point.loss]
    first, *others = shares(values, losses, found.paths)
    assert first.path == NORM
    assert first.share > 0.7 > first.chance
    assert all(one.share < one.chance for one in others)


def test_few_configurations_have_no_shares() -> None:
    values = [{"a": i % 2} for i in range(importance.LEAST - 1)]
    assert shares(values, [float(i) for i in range(len(values))], ["a"]) == []


def test_the_front_is_what_nothing_beats_in_loss_and_cost(made: Made) -> None:
    made.end({NORM: "dyt", RATE: 0.001, DEPTH: 6}, 1.9, parameters=6000)
    found = reading.read(made.place)
    assert front.costs(found) == ["parameters"]  # all take ten seconds
    kept = [(point.parameters, point.loss.mean) for point in front.front(found, "parameters")]  # type: ignore[union-attr]
    assert kept == [(2000, 1.9), (4000, 1.8)]


def test_bytes_are_those_of_the_newest_weights(made: Made) -> None:
    runs = sorted((made.place / "runs").iterdir())
    for number, run in enumerate(runs):
        for step, size in ((50, 1), (100, 100 + number)):
            folder = run / "checkpoints" / f"step-{step:08d}"
            folder.mkdir(parents=True)
            (folder / "model.safetensors").write_bytes(bytes(size))
    found = reading.read(made.place)
    assert {costs["bytes"] for costs in found.costs.values()} <= set(range(100, 113))
    assert front.costs(found) == ["parameters", "bytes"]


def test_a_search_brings_its_own_costs_and_its_baseline_has_the_values_it_started_from(
    tmp_path: Path,
) -> None:
    made = Made(tmp_path / "search")
    key = made.end({}, 2.0)
    recipe = "seed: 1\nmodel: {n_layer: 4, block: {norm: {name: rms, eps: 0.1}}}\n"
    (made.place / "trials" / f"{key}.yaml").write_text(recipe, "utf-8")
    made.end({DEPTH: 5, NORM: "dyt"}, 1.5)
    lines = [
        {"asked": 0, "settings": {}, "keys": [key]},
        {"told": 0, "found": {"loss": 2.0, "energy": 0.25}, "why": ""},
        {"asked": 1, "settings": {DEPTH: 0}, "keys": []},
        {"told": 1, "found": None, "why": "model.n_layer must be at least 1"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (made.place / "search.jsonl").write_text(text, "utf-8")
    found = reading.read(made.place)
    assert found.values["baseline"] == {DEPTH: 4, NORM: "rms"}
    assert found.costs["baseline"]["energy"] == 0.25


def test_the_page_holds_what_the_study_says_and_fetches_nothing(made: Made) -> None:
    pytest.importorskip("matplotlib", reason="charts need the extra 'plots'")
    text = report.write(made.place).page.read_text("utf-8").replace(html.NARROW, " ")
    assert "a &lt;study&gt;" in text
    assert "The lowest loss is 1.8000, with norm rms, learning_rate 0.001, n_layer 4." in text
    assert "loss was NaN at &lt;step&gt; 3" in text
    assert "1 (4k: 1.8000)" in text
    assert text.count("<svg") == 5  # curves, progress, parallel coordinates, shares, parameters
    assert "<script" not in text
    assert "http" not in text.replace("http://www.w3.org", "")


def test_a_study_without_a_result_has_a_page_and_no_recipe(tmp_path: Path) -> None:
    made = Made(tmp_path / "empty")
    made.note("STARTED", {NORM: "rms"})
    written = report.write(made.place, tmp_path / "page.html")
    assert written.recipe is None
    text = written.page.read_text("utf-8").replace(html.NARROW, " ")
    assert "No run with a finite loss yet." in text
    assert "under way, or killed" in text


def test_the_best_is_a_recipe_of_its_own(made: Made) -> None:
    recipe = report.recipe(reading.read(made.place))
    assert recipe == made.place / "best.yaml"
    text = recipe.read_text("utf-8")
    assert text.startswith("# The lowest of 12 configurations: loss 1.8000, seeds 1.\n")
    assert text.endswith("seed: 1\ntrain: {max_iters: 100}\n")


def unsteady(made: Made, loss: float) -> None:
    """A configuration of three seeds, one of which has no finite loss, and one of which failed."""
    settings = {NORM: "dyt", RATE: 1.0, DEPTH: 2}
    made.end(settings, math.nan, seed=1)
    made.end(settings, loss, seed=2)
    made.note("FAILED", settings, seed=3, error="it blew up")


def test_what_lost_seeds_is_not_the_best_while_another_lost_none(made: Made) -> None:
    unsteady(made, 1.0)
    recipe = report.recipe(reading.read(made.place))
    assert recipe is not None
    header = recipe.read_text("utf-8").splitlines()[0]
    assert header == "# The lowest of 12 configurations: loss 1.8000, seeds 1."


def test_the_sentence_says_that_others_lost_seeds(made: Made) -> None:
    pytest.importorskip("matplotlib", reason="charts need the extra 'plots'")
    unsteady(made, 1.0)
    text = page.page(reading.read(made.place)).replace(html.NARROW, " ")
    assert "The lowest loss of configurations that lost no seed is 1.8000, with" in text


def test_the_table_says_how_many_seeds_a_mean_is_of(made: Made) -> None:
    pytest.importorskip("matplotlib", reason="charts need the extra 'plots'")
    unsteady(made, 1.0)
    text = page.page(reading.read(made.place)).replace(html.NARROW, " ")
    assert "1 of 3 seeds: 2<" in text


def test_the_command_tells_in_text_and_facts_what_lost_seeds(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    unsteady(made, 1.0)
    points = sweep.show(made.place)["points"]
    assert (points[-1]["seeds"], points[-1]["lost"]) == ((1, 2, 3), (1, 3))
    assert "  1 of 3 seeds  " in capsys.readouterr().out.splitlines()[-2]


def test_where_everything_lost_seeds_the_best_says_so(tmp_path: Path) -> None:
    made = Made(tmp_path / "study")
    unsteady(made, 1.0)
    recipe = report.recipe(reading.read(made.place))
    assert recipe is not None
    assert "# Every configuration lost seeds; this one 1, 3: it may be" in recipe.read_text("utf-8")


def test_where_everything_lost_seeds_the_recipe_is_of_one_that_has_a_loss(tmp_path: Path) -> None:
    made = Made(tmp_path / "study")
    unsteady(made, 1.0)
    recipe = report.recipe(reading.read(made.place))
    assert recipe is not None
    assert "\nseed: 2\n" in recipe.read_text("utf-8")


def test_train_reads_the_recipe_of_the_best_as_that_very_experiment(made: Made) -> None:
    best = refine(Experiment(), {"seed": 1, "model": {"n_layer": 4}})
    (made.place / "trials" / "rms-0.001-4-s1.yaml").write_text(dump(encode(best)), "utf-8")
    assert load(str(report.recipe(reading.read(made.place)))) == best


def test_a_search_keeps_the_recipe_that_it_has_chosen(made: Made) -> None:
    (made.place / "search.jsonl").touch()
    (made.place / "best.yaml").write_text("# mine\nseed: 7\n", "utf-8")
    recipe = report.recipe(reading.read(made.place))
    assert recipe is not None
    assert recipe.read_text("utf-8") == "# mine\nseed: 7\n"


def test_caveats_name_what_this_study_leaves_open(made: Made) -> None:
    words = "\n".join(page.caveats(reading.read(made.place)))
    assert "chosen among 12" in words
    assert "one seed have no interval" in words
    assert "different steps" not in words


def test_too_many_lines_and_settings_are_left_out_and_counted(made: Made) -> None:
    pytest.importorskip("matplotlib", reason="charts need the extra 'plots'")
    found = reading.read(made.place)
    assert "(2 of 3 settings)" in parallel.chart(found, found.paths[:2])
    assert parallel.chart(found, []) == ""


def test_a_damaged_record_of_a_search_is_one_line(made: Made) -> None:
    (made.place / "search.jsonl").write_text('{"told": 3, "found": {}}\n', "utf-8")
    with pytest.raises(UserError, match=r"search\.jsonl is damaged"):
        reading.read(made.place)


def test_the_command_writes_page_recipe_csv_and_parquet(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="charts need the extra 'plots'")
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs the extra 'data'")
    files = [tmp_path / name for name in ("page.html", "runs.csv", "runs.parquet")]
    options = ["--out", str(files[0]), "--csv", str(files[1]), "--parquet", str(files[2])]
    assert cli.main(["report", str(made.place), *options, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [said[name] for name in ("report", "csv", "parquet")] == [str(file) for file in files]
    assert len(said["points"]) == 12
    table = parquet.read_table(files[2])
    assert table.num_rows == 12
    assert str(table.schema.field(RATE).type) == "double"
    assert len(files[1].read_text("utf-8").splitlines()) == 13


def test_a_run_has_no_table_to_write(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next((made.place / "runs").iterdir())
    assert cli.main(["report", str(run), "--csv", str(tmp_path / "x.csv")]) == 2
    assert capsys.readouterr().err.startswith("error: --csv and --parquet are for studies")


def test_a_report_of_a_study_needs_no_torch(made: Made) -> None:
    pytest.importorskip("matplotlib", reason="charts need the extra 'plots'")
    code = (
        "import sys; from espalier.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    line = [sys.executable, "-c", code, "report", str(made.place)]
    assert subprocess.run(line, capture_output=True, check=False).returncode == 0


def test_an_axis_of_steps_has_whole_numbers() -> None:
    pytest.importorskip("matplotlib", reason="charts need the extra 'plots'")
    with figures.drawing("steps", (8.2, 3.4)) as (_, axes):
        axes.plot([0, 10, 20], [3, 2, 1])
        figures.over_steps(axes)
        assert all(tick == round(tick) for tick in axes.get_xticks())
