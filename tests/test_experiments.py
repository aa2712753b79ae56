"""The shipped experiments: sweeps that expand, suites that read, commands that the verbs take."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from espalier import cli
from espalier.config import encode
from espalier.evaluate import suites
from espalier.experiment import load
from espalier.run import Run
from espalier.study import plan
from espalier.study.size import sizes
from tests.conftest import ROOT
from tests.train import tiny

SHIPPED = ROOT / "examples" / "experiments"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a sweep looks at before it trains: a run's configuration, and corpora."""
    shape = ["model.vocab_size=11", "model.n_layer=1", "model.n_embd=16", "model.n_head=2"]
    Run.create(tmp_path / "runs" / "base", encode(load("gpt-mini", shape)), {})
    for name in ("dialogue", "prose"):
        tiny.corpus(tmp_path / "data" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "runs"), [("domains", 8), ("few-shot", 10), ("sensitivity", 12)])
def test_a_sweep_is_so_many_trainings_of_the_base(place: Path, name: str, runs: int) -> None:
    trials = plan.read(SHIPPED / f"{name}.yaml")
    assert len(sizes(trials)) == runs
    assert {trial.experiment.model.n_embd for trial in trials} == {16}
    fresh = [trial for trial in trials if trial.experiment.train.init is None]
    assert len(fresh) == (4 if name == "domains" else 0)


@pytest.mark.parametrize("shots", ["zero", "one", "four"])
def test_the_same_words_are_asked_for_with_more_and_more_examples(shots: str) -> None:
    (suite,) = suites.read(str(SHIPPED / f"{shots}-shot.yaml")).values()
    assert len({item.right for item in suite.items}) == len(suite.items) == 12
    for item in suite.items:
        (prompt,) = item.asked
        assert prompt.count("out:") == 1 + {"zero": 0, "one": 1, "four": 4}[shots]
        assert prompt.endswith(f"in:{item.right[0]}\nout:")


def test_code_asks_for_one_of_four() -> None:
    (suite,) = suites.read(str(SHIPPED / "code.yaml")).values()
    assert {len(item.choices) for item in suite.items} == {4}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("experiments")


def stand_in(model: str, said: list[list[str]]) -> Callable[..., str]:
    """In place of running a command: the verb must take the words; some are answered."""

    def call(self: object, *words: str, **streams: object) -> str:
        command, _, _ = cli.make_app().parse_args(
            [word for word in words if word != "--json"], print_error=False, exit_on_error=False
        )
        assert command.__name__.rstrip("_") == words[0]
        said.append(list(words))
        listed = [{"name": model, "cached": "/cache/snapshot"}]
        settings = [
            {"data.corpus": f"data/{text}", "train.init": init}
            for text in ("dialogue", "prose")
            for init in (None, "runs/base")
        ]
        points = [{"configuration": f"c{i}", "settings": one} for i, one in enumerate(settings)]
        return json.dumps({"models": listed, "points": points})

    return call


@pytest.mark.parametrize("model", ["gpt2", "gpt-mini"])
def test_every_command_is_one_that_its_verb_takes(
    model: str, bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[list[str]] = []
    monkeypatch.setattr(bench.Bench, "call", stand_in(model, said))
    made = bench.Bench(tmp_path / "work", model)
    compared = bench.models(made, ())
    for group in bench.GROUPS.values():
        group(made, compared)
    verbs = {words[0] for words in said}
    assert {"prepare", "evaluate", "sweep", "analyze", "report"} <= verbs
    assert ("import" in verbs) == (model == "gpt2")
    views = {words[words.index("--view") + 1] for words in said if words[0] == "analyze"}
    assert {"heads", "lens", "patching", "ablation", "top", "probe", "similarity"} <= views
    assert "studies/domains/runs/c1-s1" in said[-1]  # dialogue, from the base
