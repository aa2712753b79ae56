"""Our adapter gives the harness what its own Hugging Face backend gives, on the same weights."""

import json
import logging

import pytest

pytest.importorskip("lm_eval", reason="needs the extra eval")
pytest.importorskip("transformers", reason="needs the extra hf")

import espalier as esp
from espalier.errors import MachineError, UserError
from tests.evaluate import small

NAMES = ("local_choice", "local_text", "local_answer")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def model(shared_data, tmp_path_factory):
    return small.hugging_face(tmp_path_factory.mktemp("hf"), shared_data / "gpt2-bpe")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def answers(lm, folder):
    """The raw answers to every request, and the metrics."""
    import lm_eval

    from espalier.evaluate import harness

    found = lm_eval.simple_evaluate(
        model=lm, tasks=list(NAMES), task_manager=harness.find(NAMES, folder), bootstrap_iters=0
    )
    told = {
        name: [one["resps"] for one in sorted(found["samples"][name], key=lambda s: s["doc_id"])]
        for name in NAMES
    }
    return told, found["results"]


def ours(model, rows):
    from espalier.evaluate.harness import Adapter

    return Adapter(esp.load(str(model), device="cpu").session, rows)


@pytest.fixture(scope="module")
def mine(model, folder):
    return answers(ours(model, 4), folder)


def test_every_answer_is_that_of_the_hf_backend(model, folder, mine):
    pytest.importorskip("accelerate", reason="lm-eval's hf backend needs it")
    from lm_eval.models.huggingface import HFLM

    theirs, metrics = answers(
        HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=2), folder
    )
    same(mine, (theirs, metrics))
    assert metrics["local_choice"]["acc,none"] > 0  # else the picks say little
    assert len({text for doc in theirs["local_answer"] for text in doc[0]}) > 1


def test_the_batch_size_changes_no_result(model, folder, mine):
    same(mine, answers(ours(model, rows=1), folder))


def same(one, other):
    told, metrics = one
    for mine, theirs in zip(told["local_choice"], other[0]["local_choice"], strict=True):
        for (total, greedy), (their_total, their_greedy) in zip(
            [r[0] for r in mine], [r[0] for r in theirs], strict=True
        ):
            assert total == pytest.approx(their_total, rel=1e-5)
            assert greedy == their_greedy
    texts = [[float(doc[0][0]) for doc in side["local_text"]] for side in (told, other[0])]
    assert texts[0] == pytest.approx(texts[1], rel=1e-5)
    assert told["local_answer"] == other[0]["local_answer"]
    for name in NAMES:
        for key, value in metrics[name].items():
            if isinstance(value, float):
                assert value == pytest.approx(other[1][name][key], rel=1e-5), (name, key)


def test_a_record_says_what_it_rests_on(model, folder):
    from espalier.evaluate import harness

    found = harness.evaluate(ours(model, 4), NAMES[:1], folder=folder, limit=3)["local_choice"]
    assert (found["items"], found["items_there"]) == (3, 5)
    metric = found["metrics"]["acc"]
    assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1
    assert metric["low"] < metric["high"]  # Wilson's, also where all fail


def test_an_unknown_task_is_named_with_its_nearest(folder, monkeypatch):
    from lm_eval.tasks import TaskManager

    from espalier.evaluate import harness

    monkeypatch.setattr(harness, "TaskManager", lambda **how: TaskManager(**{
        **how, "include_defaults": False}))  # fmt: skip
    with pytest.raises(UserError, match=r"no task 'local_choise'\. Did you mean 'local_choice'"):
        harness.find(["local_choise"], folder)
    with pytest.raises(UserError, match="is no folder"):
        harness.find(["x"], folder / "absent")


def test_data_that_cannot_be_had_is_the_machine_s_fault(model, folder, tmp_path):
    from espalier.evaluate import harness

    text = (folder / "local_choice.yaml").read_text(encoding="utf-8")
    gone = text.replace(f"{folder}/local_choice.jsonl", f"{tmp_path}/gone.jsonl")
    (tmp_path / "gone.yaml").write_text(gone.replace("task: local_choice", "task: gone"))
    with pytest.raises(MachineError, match="the data of gone cannot be had"):
        harness.evaluate(ours(model, 4), ["gone"], folder=tmp_path)


def test_what_the_engine_cannot_do_is_refused(model):
    adapter = ours(model, 4)
    with pytest.raises(UserError, match="the model reads 48: give --max-new-tokens"):
        adapter._answers([[1]], {"until": []})
    with pytest.raises(UserError, match="the task wants num_beams"):
        adapter._answers([[1]], {"max_gen_toks": 3, "num_beams": 2})


def test_a_sampled_answer_is_the_seed_s(model):
    adapter, asked = ours(model, 4), {"max_gen_toks": 8, "do_sample": True, "temperature": 1.5}
    first = adapter._answers([[1, 2], [3]], asked)
    assert adapter._answers([[3]], asked) == first[1:]
    adapter.seed = 5
    assert adapter._answers([[3]], asked) != first[1:]


def test_local_task_files_are_what_the_test_says(folder):
    lines = (folder / "local_choice.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0])["choices"][0] == " blue"
