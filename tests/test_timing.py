"""The timing test: what it times, what it costs, and that it leaves nothing behind."""

from pathlib import Path

import pytest

from espalier import timing
from espalier.commands.train import train
from espalier.cost import prices
from espalier.errors import UserError
from espalier.experiment import Experiment, load
from espalier.timing import Timing

SMALL = ["model.n_layer=1", "model.n_embd=16", "model.n_head=2", "model.block_size=8"]
WORDS = [*SMALL, "model.vocab_size=20", "data.corpus=null", "data.batch_size=2"]


def plan() -> Experiment:
    return load("biogpt-small", [*WORDS, "train.target_tokens=1600"])


def test_time_and_cost_follow_from_the_throughput() -> None:
    price = prices.Price(
        device="x", label="X", tflops=1, memory=1, dollars=3.0, as_of="2026-01", source="a list"
    )
    found = Timing("cuda: X", "bf16", 50, 32_768, 0.5, 10**9, 2_000_000_000, price)
    assert found.tokens_per_s == 65_536
    assert found.seconds == pytest.approx(30_517.6, abs=0.1)
    assert found.dollars == pytest.approx(25.43, abs=0.01)
    assert "$25.43 at $3.00/h (as of 2026-01: a list)" in timing.lines(found)[-1]


def test_updates_are_timed_on_the_recipes_own_batch() -> None:
    found = timing.measure(plan(), 2, "cpu")
    assert (found.steps, found.tokens_per_step, found.target_tokens) == (2, 16, 1600)
    assert 0 < found.seconds_per_step < 60
    assert found.peak_bytes > 2**20


def test_the_command_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = train("biogpt-small", *WORDS, timing_steps=1, device="cpu")
    assert found["tokens_per_s"] > 0
    assert found["price_as_of"] == "2025"
    assert list(tmp_path.iterdir()) == []


def test_no_updates_are_an_error() -> None:
    with pytest.raises(UserError, match="--timing-steps must be at least 1, got 0"):
        timing.measure(plan(), 0)


@pytest.mark.parametrize(
    ("kind", "name", "device"),
    [
        ("cuda", "NVIDIA H200", "h200"),
        ("cuda", "NVIDIA A100-SXM4-40GB", "a100"),
        ("cuda", "Tesla T4", "t4"),
        ("cuda", "NVIDIA GeForce RTX 4090", "4090"),
        ("cpu", "AMD EPYC", "cpu"),
    ],
)
def test_a_device_is_found_in_the_price_table(kind: str, name: str, device: str) -> None:
    price = prices.of(kind, name)
    assert price is not None
    assert price.device == device
    assert price.source
    assert prices.of("cuda", "Some GPU of tomorrow") is None
