"""The research loop, driven by a scripted stand-in model over HTTP, on a real small problem."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from espalier.agent import loop
from espalier.agent.endpoint import Endpoint
from espalier.agent.journal import Journal
from espalier.commands import research as command
from espalier.commands.research import Allowed, Mind, open_study, study_on
from espalier.data.prepare import prepare
from espalier.data.request import Listener, Request
from espalier.errors import UserError
from tests.agent import within
from tests.agent.stand_in import StandIn, call, listed, serving, train

STEP = 4 * 8  # tokens of an update of the tiny model
TINY = (
    "data.corpus=corpus",
    *("model.n_layer=1", "model.n_head=1", "model.n_embd=8", "model.block_size=8"),
    *("data.batch_size=4", "train.max_iters=4", "train.log_interval=1", "train.compile=false"),
    *("train.warmup_iters=1", "train.eval_interval=4", "evaluate.eval_iters=2"),
)
BROKEN = "train.learning_rate=1e30"  # passes the check, and fails in training


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    text = folder / "tiny.txt"
    text.write_text("to be or not to be, that is the question.\n" * 100, encoding="utf-8")
    prepare(Request(source=str(text), out=folder / "corpus", tokenizer="char"), Listener())
    return folder / "corpus"


@pytest.fixture(autouse=True)
def quick_and_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ESPALIER_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)


def go(study: Path, corpus: Path, stand_in: StandIn, **limits: Any) -> dict[str, Any]:
    """A study from its beginning, or on from its log, with verbs called in this process."""
    experiments = limits.pop("experiments", 10)
    model_tokens = limits.pop("model_tokens", None)
    allowed = Allowed(read=(str(corpus),), device="cpu", **limits)
    bounds = allowed.limits(experiments, model_tokens)
    with open_study(study, bounds, allowed.read, within.run) as (tools, journal, version):
        model = Endpoint.open(None, stand_in.url)
        if not journal.of("start"):
            journal.write("start", problem="Which rate?", model=model.name, version=version)
        return study_on(model, tools, journal, "Which rate?")


def answers(stand_in: StandIn) -> list[str]:
    """What the model was told last, in each request after the first."""
    return [str(body["messages"][-1]["content"]) for body in stand_in.asked[1:]]


def results(study: Path) -> list[dict[str, Any]]:
    return Journal(study / "log.jsonl").of("result")


def test_ten_experiments_with_a_failing_run_and_a_malformed_reply(
    tmp_path: Path, corpus: Path
) -> None:
    rates = [f"train.learning_rate={3 * i}e-3" for i in range(1, 10)]
    steps: list[Any] = [train(f"r{i}", *TINY, rate) for i, rate in enumerate(rates, 1)]
    steps.insert(2, train("broken", *TINY, BROKEN))
    steps.insert(4, {"text": "", "calls": [("train", '{"recipe": "shakes')]})
    end = "Rate 9e-3 gave [r3:best_val_loss], [r3:best_val_loss - r1:best_val_loss] from the first."
    script = listed([*steps, call("results"), call("finish", conclusion=end)])
    with serving(script) as stand_in:
        found = go(tmp_path / "study", corpus, stand_in, budget_tokens=10 * 4 * STEP)
    assert found["ended"] == "finished"
    assert found["spent"]["experiments"] == 10
    assert found["spent"]["tokens"] <= 10 * 4 * STEP
    assert sum(one["error"] is None for one in results(tmp_path / "study")) == 9
    assert "are not JSON" in answers(stand_in)[4]
    report = (tmp_path / "study" / "report.md").read_text(encoding="utf-8")
    files = [tmp_path / "study" / run / "results" / "train.json" for run in ("r1", "r3")]
    first, third = (json.loads(file.read_text())["best_val_loss"] for file in files)
    assert f"Rate 9e-3 gave {third:.5g} [r3], {third - first:.5g} [r3 − r1]" in report
    assert report.count("finished (horizon)") == 2 * 9
    assert found["wrong"] == []


def test_a_citation_without_a_run_and_a_number_without_a_file_are_marked(
    tmp_path: Path, corpus: Path
) -> None:
    end = "It reached 1.234 in [r1]. See also [r9] and [r1:colour].\n\nIt took 4 steps, rate 1e-3."
    steps = [train("r1", *TINY, "train.learning_rate=1e-3"), call("finish", conclusion=end)]
    with serving(listed(steps)) as stand_in:
        found = go(tmp_path / "study", corpus, stand_in)
    assert found["wrong"] == [
        "1.234: in no file of the runs cited there",
        "[r9]: the study has no run r9",
        "[r1:colour]: r1 has no number colour",
    ]
    report = (tmp_path / "study" / "report.md").read_text(encoding="utf-8")
    assert "1.234 ⚠" in report
    assert "rate 1e-3." in report


def test_a_run_that_would_pass_the_tokens_left_is_not_begun(tmp_path: Path, corpus: Path) -> None:
    steps = [train("a", *TINY), train("b", *TINY), call("finish", conclusion="One run.")]
    with serving(listed(steps)) as stand_in:
        found = go(tmp_path / "study", corpus, stand_in, budget_tokens=7 * STEP)
    assert found["spent"]["tokens"] == 4 * STEP
    assert "trains on 128 tokens, 96 are left" in answers(stand_in)[1]
    assert not (tmp_path / "study" / "b").exists()


def test_later_batches_count_before_they_are_trained_on(tmp_path: Path, corpus: Path) -> None:
    later = "train.batch_schedule=[{start: 2, gradient_accumulation_steps: 100}]"
    steps = [train("a", *TINY, later), call("finish", conclusion="None.")]
    with serving(listed(steps)) as stand_in:
        found = go(tmp_path / "study", corpus, stand_in, budget_tokens=8 * STEP)
    assert "trains on 6,464 tokens" in answers(stand_in)[0]
    assert found["spent"]["tokens"] == 0


def test_after_the_last_experiment_only_reading_is_left(tmp_path: Path, corpus: Path) -> None:
    steps = [train("a", *TINY), train("b", *TINY), call("finish", conclusion="Done.")]
    with serving(listed(steps)) as stand_in:
        found = go(tmp_path / "study", corpus, stand_in, budget_runs=1)
    assert found["spent"]["runs"] == 1
    assert "No experiment is left (runs used up)" in answers(stand_in)[0]
    assert "no experiment is left" in answers(stand_in)[1]
    assert found["ended"] == "finished"


def test_the_models_own_tokens_are_bounded(tmp_path: Path, corpus: Path) -> None:
    with serving(listed([call("results")])) as stand_in:
        found = go(tmp_path / "study", corpus, stand_in, model_tokens=12_000)
    assert found["ended"] == "model tokens used up"
    assert 0 < found["spent"]["model_tokens"] <= 12_000
    assert stand_in.asked[0]["max_completion_tokens"] < 12_000


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("", "Your reply was empty"),
        ("Let me think.", "That called no tool"),
        (call("shell", command="ls"), "no tool named 'shell'"),
        (call("train"), "train needs recipe, init or resume"),
        (call("check"), "check needs recipe"),
        (call("check", recipe="gpt2", color=1), "no argument of check named 'color'"),
        (call("check", recipe=["gpt2", "gpt2"]), "recipe takes one value, got 2"),
        (call("finish"), "finish needs conclusion"),
        ({"text": "", "calls": [("check", "[1]")]}, "not a JSON object"),
    ],
)
def test_a_model_that_never_gets_it_right_is_told_and_then_stopped(
    tmp_path: Path, corpus: Path, step: Any, told: str
) -> None:
    with serving(listed([step])) as stand_in:
        found = go(tmp_path / "study", corpus, stand_in)
    assert found["ended"].startswith(f"{loop.FAULTS} faults in a row")
    assert told in answers(stand_in)[0]
    assert len(stand_in.asked) == loop.FAULTS
    assert "The model gave none." in (tmp_path / "study" / "report.md").read_text(encoding="utf-8")


def test_an_endpoint_that_stumbles_is_asked_again(tmp_path: Path, corpus: Path) -> None:
    busy: Any = (503, {"error": {"message": "overloaded"}})
    with serving(listed([busy, busy, call("finish", conclusion="Nothing to do.")])) as stand_in:
        found = go(tmp_path / "study", corpus, stand_in)
    assert (found["ended"], len(stand_in.asked)) == ("finished", 3)


def test_a_refused_key_ends_the_study_and_stands_nowhere(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPALIER_API_KEY", "secret-123")
    refusal: Any = (401, {"error": {"message": "wrong key secret-123"}})
    with serving(listed([refusal])) as stand_in:
        found = go(tmp_path / "study", corpus, stand_in)
    assert found["ended"].startswith("endpoint: the endpoint answered 401")
    assert stand_in.keys == ["Bearer secret-123"]
    for file in (tmp_path / "study").iterdir():
        assert "secret-123" not in file.read_text(encoding="utf-8")


def test_an_interrupted_study_goes_on_where_it_stopped(tmp_path: Path, corpus: Path) -> None:
    study = tmp_path / "study"
    script = listed([train("a", *TINY), call("finish", conclusion="Done.")])
    with serving(script) as stand_in:
        go(study, corpus, stand_in)
    lines = (study / "log.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    cut = next(i for i, line in enumerate(lines) if json.loads(line)["kind"] == "result")
    (study / "log.jsonl").write_text("".join(lines[:cut]) + lines[cut][:20], encoding="utf-8")
    end = call("finish", conclusion="It is [a:val_loss].")
    with serving(listed([end])) as stand_in:
        found = go(study, corpus, stand_in)
    told = [one["content"] for one in stand_in.asked[0]["messages"]]
    assert "interrupted; see `results`" in told[-2]
    assert (found["spent"]["runs"], found["spent"]["tokens"]) == (1, 4 * STEP)
    assert re.search(r"It is \d\.\d+ \[a\]", (study / "report.md").read_text(encoding="utf-8"))


def test_nothing_that_a_tool_is_asked_is_written_outside_the_study(
    tmp_path: Path, corpus: Path
) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')\n", encoding="utf-8")
    outside = str(tmp_path / "elsewhere")
    steps = [
        train("../elsewhere", *TINY),
        train(outside, *TINY),
        train("log.jsonl", *TINY),
        call("check", recipe="gpt2", overrides=[f"model.block.norm={tmp_path}/evil.py"]),
        call("check", recipe="gpt2", overrides=["model.block.norm={name: os.path}"]),
        call("finish", conclusion="No."),
    ]
    for i, step in enumerate([0, 2, 4], 1):  # a good call between, so that the loop goes on
        steps.insert(step + i, call("results"))
    before = sorted(tmp_path.iterdir())
    with serving(listed(steps)) as stand_in:
        go(tmp_path / "study", corpus, stand_in)
    refused = Journal(tmp_path / "study" / "log.jsonl").of("refused")
    assert len(refused) == 5
    assert sorted({*before, tmp_path / "study"}) == sorted(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"code": "nanogpt"}, "--code espalier"),
        ({"problem": None}, "say what to find out"),
        ({"problem": Path("nowhere.txt")}, "cannot read the problem"),
        ({"max_iterations": 0}, "at least 1"),
        ({"resume": Path("nowhere"), "problem": None, "out": None}, "is no study"),
        ({"resume": Path("nowhere")}, "leave --problem and --out out"),
    ],
)
def test_what_cannot_be_studied_is_one_clear_line(
    tmp_path: Path, words: dict[str, Any], told: str
) -> None:
    problem = tmp_path / "problem.txt"
    problem.write_text("Which rate?\n", encoding="utf-8")
    with pytest.raises(UserError, match=told):
        command.research(**{"problem": problem, "out": tmp_path / "study", **words})
    assert not (tmp_path / "study").exists()


def test_without_a_key_or_an_endpoint_it_says_which_to_set(tmp_path: Path) -> None:
    problem = tmp_path / "problem.txt"
    problem.write_text("Which rate?\n", encoding="utf-8")
    with pytest.raises(UserError, match="set OPENAI_API_KEY"):
        command.research(problem=problem, out=tmp_path / "study")


def test_a_study_goes_on_with_what_it_was_allowed_before(tmp_path: Path, corpus: Path) -> None:
    problem, study = tmp_path / "problem.txt", tmp_path / "study"
    problem.write_text("Which rate?\n", encoding="utf-8")
    with serving(listed([call("finish", conclusion="None.")])) as stand_in:
        allowed = Allowed(read=(str(corpus),), budget_runs=3)
        mind = Mind(base_url=stand_in.url)
        command.research(problem=problem, out=study, mind=mind, allowed=allowed, max_iterations=4)
        command.research(resume=study, allowed=Allowed(budget_time="1h"))
        with pytest.raises(UserError, match="exists already"):
            command.research(problem=problem, out=study, mind=mind)
    first, second = Journal(study / "log.jsonl").of("session")
    assert second["allowed"] == first["allowed"] | {"budget_time": "1h"}
    assert (second["mind"], second["max_iterations"]) == (first["mind"], 4)
    assert "goes on" in stand_in.asked[1]["messages"][-1]["content"]


@pytest.mark.long
def test_ten_experiments_on_tiny_shakespeare_as_processes_inside_the_budget(
    tmp_path: Path, shared_data: Path
) -> None:
    problem = tmp_path / "problem.txt"
    problem.write_text("Which norm and learning rate suit a small model?\n", encoding="utf-8")
    small = (
        *("data.corpus=shakespeare", "model.n_layer=2", "model.n_embd=32", "model.n_head=2"),
        *("train.max_iters=40", "train.warmup_iters=5", "train.eval_interval=40"),
        "evaluate.eval_iters=20",
    )
    wishes = [(norm, rate) for norm in ("layer", "rms", "dyt") for rate in (1e-3, 3e-3, 1e-2)]
    steps: list[Any] = [
        train(f"{norm}-{rate}", *small, f"model.block.norm={norm}", f"train.learning_rate={rate}")
        for norm, rate in wishes
    ]
    steps.insert(1, train("broken", *small, "train.learning_rate=1e30"))
    steps.insert(3, {"text": "", "calls": [("train", "{")]})
    source = str(shared_data / "tinyshakespeare.txt")
    steps.insert(
        0, call("prepare", source="tinyshakespeare.txt", tokenizer="char", out="shakespeare")
    )
    end = "[rms-0.003:best_val_loss] against [layer-0.003:best_val_loss]."
    with serving(listed([*steps, call("finish", conclusion=end)])) as stand_in:
        allowed = Allowed(read=(source,), budget_time="8min", budget_tokens=4e5, device="cpu")
        mind = Mind(base_url=stand_in.url)
        found = command.research(problem=problem, out=tmp_path / "s", mind=mind, allowed=allowed)
    assert (found["ended"], found["wrong"]) == ("finished", [])
    assert found["spent"]["experiments"] == 10
    assert found["spent"]["tokens"] <= 4e5
    assert found["spent"]["seconds"] < 8 * 60
    ended = [one["error"] for one in results(tmp_path / "s") if one["tool"] == "train"]
    assert sum(error is None for error in ended) == 9
