"""Why a run is slow: hand-made records of a known fault, and the diagnosis of a real small run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from espalier import cli
from espalier import device as machine
from espalier.config import encode
from espalier.experiment import apply
from espalier.run import Run
from espalier.slow import diagnose, published, records, trial
from espalier.slow.causes import Cause
from espalier.slow.records import Records
from tests.train import tiny


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def step(number: int, ms: float, **more: Any) -> dict[str, Any]:
    return {"kind": "train", "step": number, "ms": ms, "time": number * ms / 1000, **more}


def made(folder: Path, metrics: list[dict[str, Any]], *overrides: str, **place: Any) -> Run:
    """A run of the tiny model with these records, never trained."""
    plan = apply(tiny.experiment(folder / "corpus"), ["model.vocab_size=11", *overrides])
    here = {"device": "cpu", "device_name": machine.name("cpu"), "threads": 1, "cores": 2}
    run = Run.create(folder / "run", encode(plan), here | place)
    for record in metrics:
        run.log(record)
    return run


def found(run: Run) -> dict[str, Cause]:
    return {cause.name: cause for cause in records.causes(Records.of(run))}


STEADY = [step(n, 10.0) for n in range(1, 21)]


def test_a_run_without_a_fault_has_no_cause(tmp_path: Path) -> None:
    assert found(made(tmp_path, STEADY)) == {}


def test_fp32_where_bf16_is_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(tmp_path, STEADY, "train.dtype=float32")
    monkeypatch.setattr(machine, "fast_bf16", lambda device: machine.Answer(True, "it has it"))
    assert "float32, though it has it" in found(run)["precision"].evidence
    monkeypatch.setattr(machine, "fast_bf16", lambda device: machine.Answer(False, "it has not"))
    assert found(run) == {}


def test_more_threads_than_cores(tmp_path: Path) -> None:
    cause = found(made(tmp_path, STEADY, threads=16, cores=4))["threads"]
    assert cause.evidence == "16 threads on 4 cores wait for each other"
    assert cause.remedy == "OMP_NUM_THREADS=4"


def test_a_loader_that_is_waited_for(tmp_path: Path) -> None:
    cause = found(made(tmp_path, [step(n, 10.0, wait_ms=5.0) for n in range(9)]))["loader"]
    assert cause.evidence == "50% of a step waits for its batch"
    assert cause.gain == pytest.approx(2.0)


def test_a_loaded_machine(tmp_path: Path) -> None:
    cause = found(made(tmp_path, STEADY, load=3.1))["other programs"]
    assert cause.evidence == "a load of 3.1 on 2 cores when it began"


def test_steps_that_vary(tmp_path: Path) -> None:
    uneven = [step(n, 40.0 if n % 5 == 0 else 10.0) for n in range(1, 41)]
    cause = found(made(tmp_path, uneven))["other programs"]
    assert cause.evidence == "one step in ten takes 40.0 ms or more, the median 10.0 ms"


def test_readings_that_a_gpu_is_waited_for(tmp_path: Path) -> None:
    on_gpu = found(made(tmp_path / "a", STEADY, device="cuda"))
    assert set(on_gpu) == {"sync points"}  # the tiny plan logs every step
    assert found(made(tmp_path / "b", STEADY, "train.log_interval=10")) == {}


def test_evaluations_that_take_most_of_the_time(tmp_path: Path) -> None:
    # 20 steps of 10 ms from 0.0 to 0.2 s, one evaluation of 0.6 s that ends at 0.8 s
    metrics = [*STEADY, {"kind": "eval", "step": 20, "time": 0.82, "seconds": 0.6}]
    # the first step is left out: 0.02 s to 0.82 s, and the first evaluation's own 0.6 s
    cause = found(made(tmp_path, metrics))["evaluation"]
    assert cause.evidence == "43% of the time: 1 of 0.6 s each"
    assert cause.remedy.startswith("train.eval_interval=40")


def test_no_compilation_on_a_gpu(tmp_path: Path) -> None:
    words = ("train.compile=false", "train.log_interval=10")
    assert set(found(made(tmp_path, STEADY, *words, device="cuda"))) == {"compile"}


def test_a_known_gpu_need_not_be_here(tmp_path: Path) -> None:
    words = ("train.dtype=float32", "train.log_interval=10")
    place = {"device": "cuda", "device_name": "NVIDIA H200"}
    cause = found(made(tmp_path, STEADY, *words, **place))["precision"]
    assert cause.evidence == "train.dtype=float32, though NVIDIA H200 is fast in bf16"


def test_a_published_figure_stands_beside_its_model_on_its_device_only() -> None:
    (line,) = published.compare("NVIDIA A100-SXM4-40GB", 124_439_808, 1024, 53_500.0)
    assert line.startswith("0.50 times the published 107,000 tokens/s of GPT-2 124M (nanoGPT's")
    assert not list(published.compare("NVIDIA A100-SXM4-40GB", 124_439_808, 512, 1.0))
    assert not list(published.compare("AMD EPYC", 124_439_808, 1024, 1.0))


def test_a_run_of_another_machine_is_read_only(tmp_path: Path) -> None:
    run = made(tmp_path, STEADY, device_name="Some GPU 9000")
    result = diagnose.diagnose(run.path)
    assert "only its records were read: it ran on another machine (Some GPU 9000)" in result.facts
    assert result.shares == {}


def test_a_measured_cause_takes_the_place_of_a_told_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(tmp_path, STEADY, "train.dtype=float32")
    measured = Cause("precision", "20 ms in fp32, 10 ms in bf16", "train.dtype=auto", 2.0)
    monkeypatch.setattr(machine, "fast_bf16", lambda device: machine.Answer(True, "it has it"))
    monkeypatch.setattr(trial, "causes", lambda base: iter([measured]))
    monkeypatch.setattr(diagnose, "SLOWER", float("inf"))
    before = sorted(file.name for file in run.path.rglob("*"))
    result = diagnose.diagnose(run.path)
    assert result.causes == (measured,)
    assert sum(result.shares.values()) == pytest.approx(1.0, abs=0.05)  # below 1 % is left out
    assert sorted(file.name for file in run.path.rglob("*")) == before  # nothing was written


def test_slower_than_the_same_steps_here_and_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "causes", lambda base: iter([]))
    run = made(tmp_path, [step(n, 60_000.0) for n in range(1, 5)])
    (cause,) = diagnose.diagnose(run.path).causes
    assert cause.name == "other programs"
    assert cause.evidence.startswith("a step took 60000.0 ms, here and now it takes")


def test_trials_measure_each_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(tmp_path, STEADY, "model.block.attention.softcap=5")
    base = trial.Trial(Records.of(run).plan, "cpu", 1)
    monkeypatch.setattr(trial, "STEPS", 2)
    monkeypatch.setattr(trial, "PAYS", 0.0)  # everything is worth a line
    causes = {cause.name: cause for cause in trial.causes(base)}
    assert "micro-batches of 4 rows" in causes["small batch"].evidence
    assert "data.batch_size=8 train.gradient_accumulation_steps=1" in causes["small batch"].remedy
    assert causes["attention"].evidence.startswith("2 of 2 layers make their scores one by one")


def test_the_command_says_the_same_in_words_and_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made(tmp_path, STEADY, device_name="elsewhere", load=9.0)
    assert cli.main(["doctor", "--slow", str(run.path)]) == 0
    words = capsys.readouterr().out
    assert cli.main(["doctor", "--slow", str(run.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (cause,) = told["causes"]
    assert cause["name"] == "other programs"
    assert cause["evidence"] in words
    assert cause["remedy"] in words


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    assert cli.main(["doctor", "--slow", str(tmp_path / "none")]) == 2
