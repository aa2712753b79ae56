"""Two ranks on this machine (gloo) do what one process does: DDP and FSDP2, runs and failures."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from espalier.data.corpus import Corpus
from espalier.data.loader import windows
from espalier.data.reading import Reading
from espalier.data.settings import DataConfig
from espalier.errors import MachineError, UserError
from espalier.evaluate.loss import score
from espalier.experiment import open_run
from espalier.fit import fit
from espalier.run import MODEL, OPTIMIZER, Run, verify, weight_files, weights_digest
from espalier.train import checkpoint, stages
from espalier.train.parallel import pieces, ranks, spread
from espalier.train.settings import TrainConfig
from tests.conftest import ROOT
from tests.train import tiny, together

WAYS = ("ddp", "fsdp")


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return together.work(2, "gradients", tmp_path_factory.mktemp("gradients"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process, of two, and of both after each other."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    tiny.corpus(folder / "corpus")
    together.train(folder / "one", "model.dropout=0", "train.noise_scale=5")
    for way in WAYS:
        together.train(folder / f"one-then-{way}", "model.dropout=0", stop_at=20)
    together.work(2, "runs", folder)
    for way in WAYS:
        together.train(folder / f"{way}-then-one", "model.dropout=0", f"train.parallel={way}")
    return folder


def series(run: Path, kind: str, key: str) -> list[float]:
    return [record[key] for record in Run.open(run).metrics() if record["kind"] == kind]


@pytest.mark.parametrize("model", together.MODELS)
@pytest.mark.parametrize("way", WAYS)
def test_loss_norm_and_gradients_are_those_of_one_process(
    gradients: dict[str, Any], way: str, model: str
) -> None:
    assert gradients[f"{way} {model}"] < 1e-9


@pytest.mark.parametrize("optimizer", together.OPTIMIZERS)
@pytest.mark.parametrize("way", WAYS)
def test_every_optimizer_makes_the_updates_of_one_process(
    gradients: dict[str, Any], way: str, optimizer: str
) -> None:
    assert gradients["updates"][f"{way} {optimizer}"] < 1e-9


@pytest.mark.long
def test_every_part_has_the_gradients_of_one_process(tmp_path: Path) -> None:
    found = together.work(2, "parts", tmp_path)
    assert len(found) > 300
    assert {name: worst for name, worst in found.items() if not worst < 1e-9} == {}


def test_ranks_meet_over_gradients_once_an_update(gradients: dict[str, Any]) -> None:
    for way in WAYS:
        whole, cut = (gradients["meetings"][f"{way} {rows}"] for rows in (4, 1))
        assert cut == whole  # in one micro-batch and in four


@pytest.mark.parametrize(
    "run", [*WAYS, *(f"{way}-then-one" for way in WAYS), *(f"one-then-{way}" for way in WAYS)]
)
def test_fifty_updates_lose_what_one_process_loses(runs: Path, run: str) -> None:
    for kind, key in (("train", "loss"), ("train", "grad_norm"), ("eval", "val_loss")):
        wanted, found = series(runs / "one", kind, key), series(runs / run, kind, key)
        assert len(found) == len(wanted)
        assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_an_evaluation_shared_by_ranks_is_that_of_one_process_to_the_last_bit(
    runs: Path, way: str
) -> None:
    for key in ("val_loss", "train_loss"):
        assert series(runs / way, "eval", key)[0] == series(runs / "one", "eval", key)[0]


@pytest.mark.parametrize("way", WAYS)
def test_ranks_go_on_bit_for_bit_with_the_dropout_of_each(runs: Path, way: str) -> None:
    whole, resumed = (Run.open(runs / f"{way}-{name}") for name in ("dropout", "resumed"))
    for one, other in zip(
        *(sorted(run.checkpoint(12).glob("*.safetensors")) for run in (whole, resumed)), strict=True
    ):
        assert one.read_bytes() == other.read_bytes()
    assert series(whole.path, "train", "loss") == series(resumed.path, "train", "loss")


@pytest.mark.parametrize("way", WAYS)
def test_moments_of_whole_matrices_are_saved_by_their_owners(runs: Path, way: str) -> None:
    whole, resumed = (
        Run.open(runs / f"{way}-{name}").checkpoint(6) for name in ("muon", "muon-resumed")
    )
    for file in MODEL, OPTIMIZER:
        one, other = checkpoint.stored(whole / file), checkpoint.stored(resumed / file)
        assert (
            one.keys()
            == other.keys()
            == checkpoint.stored(runs / "ddp-muon/checkpoints/step-00000006" / file).keys()
        )
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_ranks_do_not_drop_the_same(runs: Path) -> None:
    state = json.loads(
        (Run.open(runs / "ddp-dropout").checkpoint(12) / "state.json").read_text("utf-8")
    )
    assert len(state["others"]) == 1
    assert state["others"][0]["torch"] != state["random"]["torch"]


def test_a_cut_checkpoint_has_a_file_for_each_rank_and_opens_as_any(runs: Path) -> None:
    folder = Run.open(runs / "fsdp").checkpoint(50)
    names = {file.name for file in folder.glob("model*")}
    assert names == {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.index.json",
    }
    assert verify(folder) is None
    val = Corpus.open(runs / "corpus").val
    found = score(open_run(runs / "fsdp")[0], val, windows(val, 8), 8).loss
    assert found == pytest.approx(series(runs / "fsdp", "eval", "val_loss")[-1], abs=1e-6)
    assert [file.name for file in weight_files(folder)] == sorted(names)[:2]
    assert weights_digest(folder) != weights_digest(Run.open(runs / "fsdp").checkpoint(25))


def test_a_damaged_piece_is_noticed_by_its_hash(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "step-00000050"
    folder.mkdir()
    for file in Run.open(runs / "fsdp").checkpoint(50).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    piece = folder / "model-00002-of-00002.safetensors"
    data = bytearray(piece.read_bytes())
    data[-1] ^= 1
    piece.write_bytes(bytes(data))
    assert verify(folder) == f"{piece.name} has changed since it was written (SHA-256)"


def test_only_the_first_rank_writes_metrics_and_samples(runs: Path) -> None:
    for way in WAYS:
        steps = series(runs / way, "train", "step")
        assert steps == list(range(1, 51))
        assert series(runs / way, "sample", "step") == [0, 50]


def test_another_number_of_ranks_is_said(runs: Path) -> None:
    resumed = Run.open(runs / "one-then-ddp").environment["resumed"]
    assert resumed[0]["ranks"] == 2
    noted: list[Any] = []
    few = (*together.FEW, "train.max_iters=7", "model.dropout=0")
    plan = tiny.experiment(runs / "corpus", *few)
    noted += fit(plan, runs / "fsdp-then-ddp", resume=True, device="cpu")
    said = [event.message for event in noted if hasattr(event, "message")]
    assert said == ["ranks is 1, it was 2: it goes on, not bit for bit"]


def test_every_rank_reads_its_rows_of_the_same_batch(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = Reading(DataConfig(corpus=str(corpus), batch_size=2), 1, 8)
    config = TrainConfig(gradient_accumulation_steps=3)
    whole = next(stages.batches(reading, config, 0, 12)).inputs
    found = []
    for rank in range(3):
        monkeypatch.setattr(stages, "here", lambda rank=rank: ranks.Joined(rank, 3))
        found.append(next(stages.batches(reading, config, 0, 12)).inputs)
    assert torch.equal(torch.cat(found), whole)


def test_rows_that_cannot_be_shared_are_refused_with_numbers_that_can() -> None:
    config = TrainConfig(gradient_accumulation_steps=3)
    with pytest.raises(UserError, match=r"4 ranks cannot share 6 rows .* Near: 2, 3, 6 ranks"):
        stages.check_shares(config, 2, 4)


def test_stretches_of_rows_are_those_of_torch_chunk() -> None:
    whole = torch.arange(10).reshape(5, 2)
    for count in (1, 2, 3, 4, 7):
        parts = [pieces.own(whole, rank, count) for rank in range(count)]
        known = [*torch.chunk(whole, count), *[whole[:0]] * count][:count]
        assert all(torch.equal(one, other) for one, other in zip(parts, known, strict=True))


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"optimizer": "bridge"}, "train.optimizer=bridge may need whole matrices"),
        ({"optimizer": {"name": "lookahead", "inner": "bridge"}}, "train.optimizer=bridge"),
        ({"ema": 0.9}, "train.ema keeps whole weights"),
        ({"compile": True}, "train.compile does not go with"),
    ],
)
def test_what_needs_whole_tensors_is_refused_by_both_names(
    train: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spread.Spread, "in_pieces", True)
    with pytest.raises(UserError, match=f"{said}.*fsdp"):
        together.stepper({}, **train)


def test_a_device_that_a_rank_cannot_have_to_itself_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert ranks.own_device("auto", 1) == "cuda:1"
    with pytest.raises(UserError, match="rank 2 of this machine has no GPU: 2 are here"):
        ranks.own_device("auto", 2)
    with pytest.raises(UserError, match="each rank takes its own device"):
        ranks.own_device("cuda:1", 0)


def test_a_lost_rank_is_told_by_the_machine_and_a_mistake_by_its_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranks, "GRACE", 0.0)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    lost = RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:9")
    assert isinstance(ranks.failure(lost, 0, None), MachineError)
    found = ranks.failure(UserError("no corpus"), 1, None)
    assert (type(found), str(found)) == (UserError, "rank 1: no corpus")


def torchrun(*words: str) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, "--nproc-per-node", "2", "-m", "espalier", "train", *words]


def child_of_rank_one(launcher: int) -> int:
    """The process that torchrun started as rank 1."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text("ascii").split()
    for child in children:
        if b"\0RANK=1\0" in b"\0" + Path(f"/proc/{child}/environ").read_bytes():
            return int(child)
    raise AssertionError(f"no rank 1 among {children}")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_a_killed_rank_ends_them_all_with_one_line_and_a_sound_checkpoint(
    corpus: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        "model: {n_layer: 1, n_head: 2, n_embd: 16, block_size: 8}\n"
        f"data: {{corpus: {corpus}, batch_size: 4}}\n"
        "train: {max_iters: 1000000, gradient_accumulation_steps: 1, eval_interval: 1000000,\n"
        "        save_interval: 5, log_interval: 1000000}\n"
        "evaluate: {first: false}\n",
        encoding="utf-8",
    )
    out = tmp_path / "run"
    command = torchrun(str(recipe), "--out", str(out))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            until = time.monotonic() + together.TIMEOUT
            while not (out / "checkpoints/step-00000005").exists():
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < until
                time.sleep(0.05)
            os.kill(child_of_rank_one(process.pid), signal.SIGKILL)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode != 0
    ours = [line for line in said.splitlines() if line.startswith(("error:", "bug:"))]
    assert len(ours) == 1
    assert "lost another rank" in ours[0]
    found = Run.open(out).latest()
    assert found is not None
    assert verify(found) is None
