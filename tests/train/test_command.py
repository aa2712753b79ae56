"""`espalier train`: what a person types, sees and gets back."""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from espalier import cli, lock
from espalier.config import encode
from espalier.tree import dump
from tests.conftest import ROOT
from tests.train import tiny


@pytest.fixture
def recipe(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    text = dump(encode(tiny.experiment(corpus)))
    (tmp_path / "tiny.yaml").write_text(text, encoding="utf-8")
    return "tiny.yaml"


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["train", *words, "--device", "cpu"])
    out, err = capsys.readouterr()
    return code, out, err


def test_it_shows_a_headline_the_losses_and_the_way_on(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, recipe, "--out", "runs/a", "train.log_interval=10")
    assert code == 0
    assert " parameters\n" in out
    assert "precision   fp32 (" in out
    assert "step 30: train loss " in out
    assert "iter 30: loss " in err
    assert out.splitlines()[-2:] == [
        "espalier sample runs/a --prompt 'Once'",
        "espalier report runs/a",
    ]


def test_without_out_the_place_is_the_recipe_and_its_hash(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, recipe, "train.max_iters=2")[0] == 0
    assert call(capsys, recipe, "train.max_iters=3")[0] == 0
    places = sorted(Path("runs").iterdir())
    assert len(places) == 2
    assert all(place.name.startswith("tiny-") for place in places)


def test_an_unknown_device_is_one_line_that_names_the_known(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", recipe, "--device", "gpu"]) == 2
    said = "error: no device 'gpu': take cpu, cuda, cuda:N (a number) or mps\n"
    assert capsys.readouterr().err == said


def test_check_refuses_what_training_refuses(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for mistake in ("train.min_lr=1", "model.n_layer=10000000"):
        said = [call(capsys, recipe, mistake)[2]]
        assert cli.main(["check", recipe, mistake]) == 2
        said.append(capsys.readouterr().err)
        assert said[0] == said[1]


def test_json_is_one_object_on_stdout(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, recipe, "train.max_iters=2", "--json")
    assert code == 0
    summary = json.loads(out)
    assert summary["step"] == 2
    assert summary["reason"] == "horizon"


def test_nanogpts_way_of_writing_works(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: str
) -> None:
    (tmp_path / "config.py").write_text(
        "n_layer = 1\nn_head = 2\nn_embd = 8\nblock_size = 4\nbatch_size = 2\neval_iters = 5\n"
        "gradient_accumulation_steps = 1\nmax_iters = 2\n",
        encoding="utf-8",
    )
    words = ["config.py", f"data.corpus={corpus}", "--batch_size=3", "--eval_only=True"]
    code, out, err = call(capsys, *words, "--out", "e")
    assert code == 0, err
    assert "steps of 12 tokens" in out
    assert "step 0: train loss" in out


def test_a_run_is_never_overwritten_by_accident(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, recipe, "--out", "a", "train.max_iters=2")[0] == 0
    code, _, err = call(capsys, recipe, "--out", "a")
    assert code == 2
    assert "a holds a finished run. Go on with it: --resume a; replace it: --overwrite" in err
    assert call(capsys, recipe, "--out", "a", "train.max_iters=3", "--overwrite")[0] == 0
    Path("notes").mkdir()
    Path("notes/mine.txt").touch()
    code, _, err = call(capsys, recipe, "--out", "notes", "--overwrite")
    assert code == 2
    assert "notes exists already; choose another --out" in err


def test_a_mistake_with_overwrite_leaves_the_old_run_where_it_was(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, recipe, "--out", "a", "train.max_iters=2")[0] == 0
    before = sorted(Path("a").rglob("*"))
    for mistake in ("data.corpus=none", "model.n_head=3", "train.init=nowhere"):
        assert call(capsys, recipe, "--out", "a", "--overwrite", mistake)[0] == 2
        assert sorted(Path("a").rglob("*")) == before
        assert not list(Path().glob("a.was*"))
    assert call(capsys, recipe, "--out", "a", "--overwrite", "train.max_iters=3")[0] == 0
    assert not list(Path().glob("a.was*"))


def test_a_new_run_that_fails_before_it_begins_gives_its_place_back(
    recipe: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(capsys, recipe, "--out", "a", "train.max_iters=2")[0] == 0
    before = sorted(Path("a").rglob("*"))
    monkeypatch.setattr("espalier.fit.mirrors.start", full_disk)
    code, _, err = call(capsys, recipe, "--out", "a", "--overwrite")
    assert (code, err) == (3, "error: No space left on device\n")
    assert sorted(Path("a").rglob("*")) == before
    assert not list(Path().glob("a.was*"))


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_former_run_stays_aside_where_another_process_took_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from espalier.commands.train import _back

    former, place = tmp_path / "a.was-1", tmp_path / "a"
    former.mkdir()
    place.mkdir()
    with lock.hold(place / "lock"):
        _back(former, place)
        assert place.is_dir()
    assert capsys.readouterr().err == f"warning: the run that stood at {place} is now {former}\n"


def test_nanogpts_out_dir_is_where_the_run_goes(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: str
) -> None:
    (tmp_path / "config.py").write_text(
        "out_dir = 'out-a'\nn_layer = 1\nn_head = 2\nn_embd = 8\nblock_size = 4\n"
        "batch_size = 2\neval_iters = 5\ngradient_accumulation_steps = 1\nmax_iters = 2\n",
        encoding="utf-8",
    )
    words = ["config.py", f"data.corpus={corpus}", "--eval_only=True"]
    for more, place in (
        ([], "out-a"),
        (["--out_dir=b"], "b"),
        (["--out_dir=b", "--out", "c"], "c"),
    ):
        assert call(capsys, *words, *more)[0] == 0
        assert (tmp_path / place / "config.yaml").is_file()


def test_a_config_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("n_layer = (", encoding="utf-8")
    for file, said in (("none.py", "no recipe file none.py"), (str(broken), "cannot be read")):
        code, _, err = call(capsys, file)
        assert (code, said in err) == (2, True)


def test_nanogpts_init_from_resume_goes_on_in_its_out_dir(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, recipe, "train.max_iters=2", "--out", "a")
    words = ["--init_from=resume", "--out_dir=a", "--max_iters=3"]
    code, out, err = call(capsys, recipe, *words)
    assert code == 0, err
    assert "a from step 2" in out
    assert "done: 3 steps" in out
    Path("theirs").mkdir()
    Path("theirs/ckpt.pt").touch()
    code, _, err = call(capsys, recipe, "--init_from=resume", "--out_dir=theirs")
    assert code == 2
    assert "espalier import theirs/ckpt.pt --corpus DIR" in err


@pytest.mark.parametrize(
    ("words", "lower"),
    [
        (["data.batch_size=16000000", "model.block_size=2000"], "data.batch_size"),
        (["model.n_embd=1000000"], "model.n_layer, model.n_embd or model.vocab_size"),
    ],
)
def test_what_no_memory_holds_is_refused_with_the_numbers(
    recipe: str, capsys: pytest.CaptureFixture[str], words: list[str], lower: str
) -> None:
    code, _, err = call(capsys, recipe, *words)
    assert code == 3
    assert err.startswith("error: training needs at least ")
    assert " are free on cpu: " in err
    assert f"Lower {lower}" in err
    assert len(err.splitlines()) == 1
    assert not Path("runs").exists()


def test_resuming_a_finished_run_says_so_and_how_to_go_on(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, recipe, "--out", "a", "train.max_iters=2")
    code, out, _ = call(capsys, "--resume", "a")
    assert code == 0
    assert out.startswith("a is finished: 2 steps")
    assert "espalier train --resume a train.max_iters=4" in out
    code, out, _ = call(capsys, "--resume", "a", "train.max_iters=4")
    assert code == 0
    assert "a from step 2" in out
    assert "done: 4 steps" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say which recipe"),
        (["tiny.yaml", "train.learning_rat=1"], "unknown field 'learning_rat' in train"),
        (["tiny.yaml", "model.n_head=3"], "model.n_head=3 must divide"),
        (["tiny.yaml", "data.corpus=none"], "none does not exist"),
        (["tiny.yaml", "train.init=nowhere"], "nowhere"),
        (["--resume", "nowhere"], "no run at nowhere"),
        (["--resume", "nowhere", "--out", "b"], "leave --out out"),
        (["--resume", "nowhere", "--init", "b"], "leave --init out"),
        (["--resume", "nowhere", "--timing-steps", "2"], "leave --timing-steps out"),
        (["tiny.yaml", "model.n_layer=1000000"], "model.n_layer must be at most 1000, got 1000000"),
        (["tiny.yaml", "data.batch_size=1000000000"], "data.batch_size must be at most 16777216"),
        (["tiny.yaml", "train.min_lr=1"], "train.min_lr=1.0 is above train.learning_rate=0.01"),
        (["shakespear-char"], "Did you mean 'shakespeare-char'?"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    recipe: str, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    code, _, err = call(capsys, *words)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1
    assert not Path("runs").exists()


@pytest.mark.skipif(os.name == "nt", reason="a shell's pipes")
def test_a_run_whose_reader_has_gone_goes_on(recipe: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "espalier", "train", recipe, "--out", "a"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = f"{shlex.join(words)} 2>&1 | head -n 1"
    subprocess.run(["sh", "-c", line], cwd=tmp_path, env=env, check=True, capture_output=True)
    assert (tmp_path / "a" / "results" / "train.json").is_file()


@pytest.mark.skipif(os.name == "nt", reason="no signals there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_and_says_how_to_go_on(
    recipe: str, tmp_path: Path, number: int
) -> None:
    words = ["train", recipe, "--out", "a", "train.max_iters=100000", "train.save_interval=100000"]
    process: Any = subprocess.Popen(
        [sys.executable, "-m", "espalier", *words, "train.eval_interval=100000"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    end = time.monotonic() + 100
    log = tmp_path / "a" / "metrics.jsonl"
    while time.monotonic() < end and not (log.exists() and '"train"' in log.read_text("utf-8")):
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "espalier train --resume a" in err.splitlines()[-1]
    assert len(list((tmp_path / "a" / "checkpoints").iterdir())) == 1
    assert not (tmp_path / "a" / "lock").exists()
