"""What the tools are made of: schemas from signatures, rules, budgets, processes, citations."""

import time
from pathlib import Path

import pytest

from espalier.agent import budget, citing, experiment, offer, rules, signature
from espalier.agent.budget import Budget, Spent
from espalier.agent.facts import Facts
from espalier.agent.journal import Journal
from espalier.agent.process import Processes
from espalier.agent.rules import Place
from espalier.commands.research import verb
from espalier.errors import UserError


@pytest.fixture(scope="module")
def tools() -> dict[str, offer.Tool]:
    return offer.tools(verb)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    for name in ("study/a", "data/texts/sub", "data/private"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "study/a/config.yaml").write_text("seed: 1\n", encoding="utf-8")
    (tmp_path / "data/private/notes.txt").write_text("mine\n", encoding="utf-8")
    (tmp_path / "study/link").symlink_to(tmp_path / "data/private")
    return Place.of(tmp_path / "study", (str(tmp_path / "data/texts"), "gpt2"))


# schemas


def test_a_schema_is_the_verbs_signature(tools: dict[str, offer.Tool]) -> None:
    check = tools["check"].schema
    assert check["required"] == ["recipe"]
    assert check["properties"]["overrides"]["items"] == {"type": "string"}
    assert check["properties"]["resolved"]["type"] == "boolean"
    assert "path=value" in check["properties"]["overrides"]["description"]
    assert tools["analyze"].schema["properties"]["view"]["enum"][0] == "neurons"


def test_every_rule_and_exception_is_of_an_argument_that_exists(
    tools: dict[str, offer.Tool],
) -> None:
    for tool in tools.values():
        assert {*tool.offer.rules, *tool.offer.without} <= set(tool.declared), tool.name


def test_no_text_is_offered_without_a_rule_and_nothing_that_is_needed_is_kept_back(
    tools: dict[str, offer.Tool],
) -> None:
    for tool in tools.values():
        for name, one in tool.declared.items():
            assert one.closed or name in tool.offer.rules or name not in tool.arguments
            assert not one.required or name in tool.arguments, f"{tool.name}.{name}"


def test_values_become_words_of_the_command_line(
    tools: dict[str, offer.Tool], place: Place
) -> None:
    given = {"runs": "a", "finetune_steps": 3, "samples": False, "keep": True}
    prune = tools["prune"]
    words = prune.words(prune.values(given, place), "cpu")
    assert words[:2] == ["prune", "a"]
    assert set(words[2:]) == {"--finetune-steps=3", "--no-samples", "--keep", "--device=cpu"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"run": 3}, "takes a value of type string"),
        ({"run": "a", "num_samples": 1.5}, "takes a value of type integer"),
        ({"run": "a", "num_samples": True}, "takes a value of type integer"),
        ({"run": "a", "weights": "int4"}, "weights is one of auto, float32, bf16, int8"),
        ({"run": "a", "prompt": "FILE:/etc/passwd"}, "not as FILE:"),
        ({"run": "a", "promt": "x"}, "Did you mean 'prompt'?"),
    ],
)
def test_a_wrong_argument_is_one_clear_sentence(
    tools: dict[str, offer.Tool], place: Place, given: dict[str, object], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        tools["sample"].values(given, place)


def test_annotations_that_no_single_value_fills_have_no_schema() -> None:
    assert signature.schema_of(tuple[int, float]) is None
    assert signature.schema_of(int | str) is None
    assert signature.schema_of(tuple[int, ...] | None) == {
        "type": "array",
        "items": {"type": "integer"},
    }


# rules


@pytest.mark.parametrize("text", ["../x", "/tmp/x", ".", "log.jsonl", "report.md/x", "link/x", ""])
def test_only_new_places_in_the_study_are_written(place: Place, text: str) -> None:
    with pytest.raises(UserError):
        rules.new(place, text)
    assert rules.new(place, "b") == "b"


@pytest.mark.parametrize("text", ["/etc/passwd", "../data/private", "link/notes.txt", "b.py"])
def test_only_the_study_and_what_was_named_is_read(place: Place, text: str) -> None:
    with pytest.raises(UserError):
        rules.reads(place, text)
    assert rules.reads(place, "texts") == str(place.study.parent / "data/texts")
    assert rules.reads(place, str(place.study.parent / "data/texts/sub")).endswith("texts/sub")


@pytest.mark.parametrize(
    "text",
    [
        "model.block.norm=./spiky.py",
        "model.block.norm=mylab.norms.spiky",
        "model={block: {norm: {name: os.path}}}",
        "model.layers=[{repeat: 1, block: {ffn: ./mine.py}}]",
        "data.corpus=/etc",
        "train.init=/some/run",
        "train.loss={name: distillation, teacher: ../other}",
        "--out=/tmp/x",
        "seed",
    ],
)
def test_no_override_names_code_or_a_place_outside(place: Place, text: str) -> None:
    with pytest.raises(UserError):
        rules.override(place, text)


@pytest.mark.parametrize(
    "text",
    [
        "train.learning_rate=1.5e-3",
        "model.block.norm={name: rms, eps: 1.0e-6}",
        "train.freeze=[trunk.embed.*]",
        "model.layers=[{repeat: 2, block: {norm: dyt}}]",
    ],
)
def test_numbers_names_and_patterns_pass_as_they_are(place: Place, text: str) -> None:
    assert rules.override(place, text) == text


def test_a_named_corpus_in_an_override_becomes_its_path(place: Place) -> None:
    texts = place.study.parent / "data/texts"
    assert rules.override(place, "data.corpus=texts") == f'data.corpus="{texts}"'


def test_a_named_model_may_begin_a_run_and_no_other(place: Place) -> None:
    assert rules.model(place, "gpt2") == "gpt2"
    with pytest.raises(UserError, match="no run gpt2-xl"):
        rules.model(place, "gpt2-xl")


def test_parts_lists_and_never_begins_one(place: Place) -> None:
    assert rules.word(place, "norm") == "norm"
    for text in ("new", "../x", "a.py"):
        with pytest.raises(UserError):
            rules.word(place, text)


# budgets


@pytest.mark.parametrize(
    ("text", "seconds"), [("30min", 1800), ("90s", 90), ("1h30min", 5400), ("2 h", 7200), ("5", 5)]
)
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert budget.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "30 parsecs", "-5min", "0s", "1h30"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no time"):
        budget.seconds(text)


def test_a_spent_budget_says_what_is_used_up() -> None:
    spent = Spent(seconds=90, tokens=500, runs=2)
    assert spent.empty(Budget(seconds=60, tokens=501, runs=2)) == ["seconds", "runs"]
    assert spent.empty(Budget()) == []


def test_pruning_counts_every_level_and_the_unpruned_one(place: Place) -> None:
    config = place.study / "a" / "config.yaml"
    config.write_text("model: {block_size: 8192}\n", encoding="utf-8")
    values = {"runs": ["a"], "levels": ["50,90"], "finetune_steps": [10]}
    assert experiment.pruning_tokens(place.study, "prune", values) == 3 * 10 * 8192
    assert experiment.pruning_tokens(place.study, "sample", values) == 0


# processes


def test_a_verb_is_a_process_that_hears_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-123")
    monkeypatch.setattr("espalier.agent.process.sys.executable", str(_listening(tmp_path)))
    outcome = Processes()(["recipes"], tmp_path, 60)
    assert (outcome.code, outcome.value) == (0, {"key": "", "words": "-m espalier recipes --json"})


def _listening(folder: Path) -> Path:
    """A program that tells what it was given."""
    program = folder / "program"
    program.write_text(
        '#!/bin/sh\nprintf \'{"key": "%s", "words": "%s"}\' "$OPENAI_API_KEY" "$*"\n',
        encoding="utf-8",
    )
    program.chmod(0o755)
    return program


def test_a_verb_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.1; done\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr("espalier.agent.process.sys.executable", str(program))
    start = time.monotonic()
    outcome = Processes()(["train"], tmp_path, 0.4)
    assert outcome.late
    assert outcome.error == f"its time was up after {outcome.seconds:.0f} s"
    assert time.monotonic() - start < 10


def test_a_real_verb_answers_in_json(tmp_path: Path) -> None:
    outcome = Processes()(["recipes"], tmp_path, 100)
    assert outcome.error is None
    assert "gpt2" in outcome.value["recipes"]
    assert list(tmp_path.iterdir()) == []


# the log


def test_a_torn_last_line_is_cut_off_and_the_log_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    Journal(file).write("call", tool="check")
    with file.open("a", encoding="utf-8") as stream:
        stream.write('{"n": 2, "ki')
    journal = Journal(file)
    assert [one["tool"] for one in journal.open_calls()] == ["check"]
    journal.write("result", call=1)
    assert [one["n"] for one in Journal(file).records] == [1, 2]
    assert Journal(file).open_calls() == []


# citations

RUNS = {
    "a": Facts("a", "finished (horizon)", {"val_loss": 1.5625, "step": 2000}, "c0", "w0"),
    "b": Facts("b", "finished (horizon)", {"val_loss": 1.25, "rate": 0.0003}, "c1", None),
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[a:val_loss] after [a:step] steps", "1.5625 [a] after 2,000 [a] steps"),
        ("better by [a:val_loss - b:val_loss]", "better by 0.3125 [a − b]"),
        ("see [a] and [the docs](x.md)", "see [a] and [the docs](x.md)"),
        ("1.56 in [a]", "1.56 in [a]"),
        ("3e-4 in [b]", "3e-4 in [b]"),
        ("4 layers, 10 runs", "4 layers, 10 runs"),
    ],
)
def test_what_stands_in_the_files_is_printed(text: str, shown: str) -> None:
    assert citing.check(text, RUNS) == citing.Checked(shown, citing.check(text, RUNS).cited, ())


@pytest.mark.parametrize(
    "text", ["1.57 in [a]", "1.25 in [a]", "20 % better", "[c:val_loss]", "[a:x]", "5000 steps"]
)
def test_what_does_not_is_marked(text: str) -> None:
    checked = citing.check(text, RUNS)
    assert citing.MARK in checked.text
    assert len(checked.wrong) == 1
