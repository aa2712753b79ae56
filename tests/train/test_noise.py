"""The gradient noise scale, against what is known."""

from functools import partial
from pathlib import Path
from typing import cast

import pytest
import torch

from espalier import fit
from espalier.config import decode
from espalier.errors import UserError
from espalier.nn.gpt import GPT
from espalier.run import Run
from espalier.train import setup
from espalier.train.checkpoint import read
from espalier.train.events import Stepped
from espalier.train.noise import Apart, NoiseScale, estimates
from espalier.train.parallel.ranks import Ranks
from espalier.train.parallel.spread import Spread
from espalier.train.settings import TrainConfig
from tests.train import tiny, together


def test_the_estimates_of_known_expectations_are_exact() -> None:
    # G = (3, 4), tr(covariance) = 10: E|g|^2 = 25 + 10 / n, at n = 2 and 8
    found = estimates(*map(torch.tensor, (30.0, 26.25, 2.0, 8.0)))
    assert [one.item() for one in found] == pytest.approx([25, 10])


def test_micro_batches_of_a_known_covariance_give_its_noise_scale() -> None:
    """Sample gradients N((3, 4), diag(6, 4)): |G|^2 = 25, S = 10, scale 0.4."""
    chance = torch.Generator().manual_seed(1)
    spread, mean = torch.tensor([6.0, 4.0]).sqrt(), torch.tensor([3.0, 4.0])
    weight, sums = torch.zeros(2, requires_grad=True), torch.zeros(2)
    alone = Spread(cast(GPT, torch.nn.Module()), "cpu")
    for _ in range(800):
        samples = mean + spread * torch.randn(8, 2, generator=chance)
        apart = Apart([weight], alone)
        for part in torch.split(samples, [2, 2, 3, 1]):  # unequal ones too
            ((part @ weight).sum() / 8).backward()
            apart.add(torch.zeros(len(part), dtype=torch.long))
        small, b, count = apart.join()
        torch.testing.assert_close(weight.grad, samples.mean(0))
        sums += torch.stack(estimates(small, weight.grad.square().sum(), b, count))
        weight.grad = None
    length, trace = (sums / 800).tolist()
    assert length == pytest.approx(25, abs=0.5)
    assert trace == pytest.approx(10, abs=0.7)


def test_numerator_and_denominator_are_averaged_apart() -> None:
    noise = NoiseScale(1, "cpu")
    assert noise.read() is None
    for small, big in ((30.0, 26.25), (35.0, 20.0), (float("nan"), 1.0)):
        noise.take(*map(torch.tensor, (small, big, 2.0, 8.0)))
    # (25, 10), then ((160 - 70) / 6, 15 / (3 / 8)) = (15, 40); weights 0.95 to 1; NaN is left out
    wanted = (0.95 * 10 + 40) / (0.95 * 25 + 15)
    assert noise.read() == pytest.approx(wanted)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.corpus(tmp_path_factory.mktemp("noise"))


def trained(corpus: Path, out: Path, *overrides: str) -> Run:
    plan = tiny.experiment(corpus, "train.max_iters=8", *overrides)
    for _ in fit.fit(plan, out, device="cpu"):
        pass
    return Run.open(out)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return read(run.checkpoint(8) / "model.safetensors")


def told(run: Run) -> list[dict[str, object]]:
    return [record for record in run.metrics() if record["kind"] == "train"]


def test_measuring_micro_batches_changes_no_bit_of_training(corpus: Path, tmp_path: Path) -> None:
    off, on = (
        trained(corpus, tmp_path / f"{wish}", f"train.noise_scale={wish}")
        for wish in ("false", "2")
    )
    for name, tensor in weights(off).items():
        assert torch.equal(tensor, weights(on)[name]), name
    assert all("noise_scale" not in record for record in told(off))
    first, *_, last = (record["noise_scale"] for record in told(on))
    assert first is None
    assert last > 0


def test_a_single_micro_batch_is_measured_by_halves(corpus: Path, tmp_path: Path) -> None:
    words = ["train.noise_scale=true", "train.gradient_accumulation_steps=1", "data.batch_size=5"]
    run = trained(corpus, tmp_path / "run", *words)
    assert all("noise_scale" in record for record in told(run))


def test_a_resumed_run_goes_on_with_its_averages(corpus: Path, tmp_path: Path) -> None:
    plan = tiny.experiment(corpus, "train.max_iters=8", "train.noise_scale=true")
    whole = trained(corpus, tmp_path / "whole", "train.noise_scale=true")
    steps: list[int] = []
    enough = partial(lambda seen: len(seen) > 4, steps)
    part = fit.fit(plan, tmp_path / "part", device="cpu", interrupted=enough)
    steps.extend(event.step for event in part if isinstance(event, Stepped))
    assert len(steps) == 5
    for _ in fit.fit(plan, tmp_path / "part", device="cpu", resume=True):
        pass
    ours, theirs = (
        [record["noise_scale"] for record in told(run)]
        for run in (whole, Run.open(tmp_path / "part"))
    )
    assert ours == theirs


def test_one_window_has_no_parts_to_compare(corpus: Path, tmp_path: Path) -> None:
    words = ["train.noise_scale=true", "train.gradient_accumulation_steps=1", "data.batch_size=1"]
    with pytest.raises(UserError, match="noise_scale compares parts of an update"):
        trained(corpus, tmp_path / "run", *words)


def test_of_ranks_each_has_parts_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    class Two(Ranks):
        count = 2

    monkeypatch.setattr(setup, "spread", lambda model, device, *_: Spread(model, device, Two()))
    with pytest.raises(UserError, match=r"data\.batch_size=4"):
        together.stepper({}, noise_scale=True, gradient_accumulation_steps=1)


def test_an_interval_is_at_least_one() -> None:
    assert decode(TrainConfig, {"noise_scale": 5}).noise_scale == 5
    with pytest.raises(UserError, match="noise_scale"):
        decode(TrainConfig, {"noise_scale": 0})
