"""`espalier evaluate`: what it takes, what it keeps, and one clear line for what it cannot use."""

import json
import shutil

import pytest

from espalier import cli
from tests.pretrained.layouts import write_out


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_out(tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    place = tmp_path_factory.mktemp("runs") / "imported"
    assert cli.main(["import", str(source / "ckpt.pt"), "--out", str(place)]) == 0
    return place


@pytest.fixture
def texts(tmp_path):
    one, two = tmp_path / "one.txt", tmp_path / "two.jsonl"
    one.write_text("the quick brown fox jumps over the lazy dog.\n" * 5, encoding="utf-8")
    lines = [{"text": word * 7} for word in ("one ", "two ", "three ")]
    two.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return one, two


def call(capsys, *words):
    code = cli.main(["evaluate", *map(str, words), "--device", "cpu"])
    caught = capsys.readouterr()
    return code, caught.out, caught.err


def test_models_and_texts_make_a_matrix(source, run, texts, tmp_path, capsys):
    twin = tmp_path / "twin"
    shutil.copytree(run, twin)
    words = [source, run, twin, "--corpus", *texts, "--json", "--stride", 4]
    code, out, _ = call(capsys, *words)
    found = json.loads(out)["models"]
    assert code == 0
    assert list(found) == [str(source), str(run), str(twin)]
    assert len({one["weights_sha256"] for one in found.values()}) == 1
    for model, one in found.items():
        assert list(one["corpora"]) == [str(text) for text in texts]
        record = one["corpora"][str(texts[1])]
        assert (record["documents"], record["stride"], record["dtype"]) == (3, 4, "fp32")
        assert record["interval"]["clusters"] == 3
        assert record["bits_per_byte"]["low"] < record["bits_per_byte"]["high"]
        if model != str(source):
            assert record["against"] == {"mean": 0, "low": 0, "high": 0}


def test_a_table_stands_on_stdout(run, texts, capsys):
    code, out, _ = call(capsys, run, "--corpus", texts[1])
    assert code == 0
    assert "3 documents" in out
    assert "bits per byte (95 %)" in out
    assert "context 16, stride 8, fp32" in out


def test_results_stay_with_the_run_and_gather(run, texts, capsys):
    call(capsys, run, "--corpus", texts[0])
    call(capsys, run, "--corpus", texts[1], "--behaviour", "facts", "--speed")
    kept = json.loads((run / "results" / "evaluate.json").read_text(encoding="utf-8"))
    assert {str(text) for text in texts} <= set(kept["corpora"])
    assert kept["corpora"][str(texts[0])]["weights_sha256"] == kept["speed"]["weights_sha256"]
    assert kept["behaviour"]["facts"]["unwritable"] == 30  # capitals
    assert kept["speed"]["decode_tokens_per_s"] > 0


def test_everything_can_go_to_a_file(source, texts, tmp_path, capsys):
    code, _, _ = call(capsys, source, "--corpus", texts[0], "--out", tmp_path / "all.json")
    found = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert (code, list(found["models"])) == (0, [str(source)])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "say which model"),
        (["RUN", "--stride", "0"], "--stride must be at least 1, got 0"),
        (["RUN"], "names no corpus of its own"),
        (["RUN", "--corpus", "absent"], "no source 'absent'"),
        (["RUN", "--corpus", "TEXT", "--stride", "17"], "--stride 17: at most the model's block"),
        (["RUN", "--behaviour", "mood"], "no behaviour suite 'mood'"),
        (["RUN", "--speed", "--prompt-tokens", "15", "--new-tokens", "2"], "the model reads 16"),
        (["RUN", "--tasks", ","], "--tasks takes names with commas"),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(run, texts, capsys, words, line):
    given = [{"RUN": run, "TEXT": texts[0]}.get(word, word) for word in words]
    code, _, err = call(capsys, *given)
    assert code == 2
    assert line in err
    assert len(err.splitlines()) <= 3


def test_a_text_that_one_model_cannot_write_does_not_stop_the_others(run, texts, tmp_path, capsys):
    odd = tmp_path / "odd.txt"
    odd.write_text("ÄÖÜ 123", encoding="utf-8")
    code, out, _ = call(capsys, run, "--corpus", odd, texts[0])
    assert code == 0
    assert "not in the character vocabulary" in out
    code, _, err = call(capsys, run, "--corpus", odd)
    assert (code, "not in the character vocabulary" in err) == (2, True)
