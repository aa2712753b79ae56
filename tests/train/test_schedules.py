"""Learning rates by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espalier.config import decode, names, resolve
from espalier.errors import ConfigError
from espalier.train import stages
from espalier.train.schedule.constant import ConstantConfig
from espalier.train.schedule.cosine import CosineConfig
from espalier.train.schedule.exponential import ExponentialConfig
from espalier.train.schedule.linear import LinearConfig
from espalier.train.schedule.plateau import PlateauConfig
from espalier.train.schedule.step import StepConfig
from espalier.train.schedule.wsd import WsdConfig
from espalier.train.settings import TrainConfig
from espalier.train.setup import horizon, rate
from espalier.train.slots import ScheduleConfig, Span

SPAN = Span(peak=1.0, floor=0.1, warmup=3, horizon=11)


def test_cosine_is_nanogpts() -> None:
    rates = [CosineConfig().rate(step, SPAN) for step in (0, 2, 3, 7, 11, 99)]
    assert rates == pytest.approx([0.25, 0.75, 1.0, 0.55, 0.1, 0.1])


def test_constant_stays_after_the_warm_up() -> None:
    assert [ConstantConfig().rate(step, SPAN) for step in (0, 3, 99)] == [0.25, 1.0, 1.0]


@pytest.mark.parametrize(
    ("shape", "half"), [("linear", 0.55), ("cosine", 0.55), ("sqrt", 1 - 0.9 * math.sqrt(0.5))]
)
def test_wsd_falls_in_the_last_part(shape: str, half: float) -> None:
    schedule = decode(WsdConfig, {"decay": 4 / 11, "shape": shape})
    rates = [schedule.rate(step, SPAN) for step in (0, 3, 7, 9, 11, 99)]
    assert rates == pytest.approx([0.25, 1.0, 1.0, half, 0.1, 0.1])


@given(
    st.sampled_from(names(ScheduleConfig)),
    st.integers(0, 50),
    st.integers(1, 100),
    st.integers(0, 200),
)
def test_no_schedule_leaves_its_bounds(name: str, warmup: int, end: int, step: int) -> None:
    span = Span(1.0, 0.1, warmup, end)
    rate = resolve(ScheduleConfig, name)().rate(step, span)
    assert 0 < rate <= 1.0
    assert step < warmup or rate >= 0.1


def test_linear_is_a_straight_line() -> None:
    rates = [LinearConfig().rate(step, SPAN) for step in (0, 3, 5, 7, 11, 99)]
    assert rates == pytest.approx([0.25, 1.0, 0.775, 0.55, 0.1, 0.1])


def test_exponential_takes_the_same_share_off_each_step() -> None:
    rates = [ExponentialConfig(gamma=0.5).rate(step, SPAN) for step in (2, 3, 4, 6, 99)]
    assert rates == pytest.approx([0.75, 1.0, 0.5, 0.125, 0.1])
    rates = [ExponentialConfig().rate(step, SPAN) for step in (3, 7, 11, 99)]
    assert rates == pytest.approx([1.0, math.sqrt(0.1), 0.1, 0.1])


def test_an_exponential_that_has_no_end_is_refused_before_training() -> None:
    config = decode(TrainConfig, {"schedule": "exponential", "min_lr": 0})
    with pytest.raises(ConfigError, match=r"train\.min_lr=0 is never reached"):
        rate(config, 100)


def test_step_goes_down_stairs() -> None:
    span = SPAN._replace(floor=0.0, horizon=20)
    rates = [StepConfig().rate(step, span) for step in (2, 3, 9, 10, 14, 15, 99)]
    assert rates == pytest.approx([0.75, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(("patience", "cooldown"), [(0, 0), (2, 0), (1, 3)])
def test_plateaus_are_torchs(patience: int, cooldown: int) -> None:
    losses = [3.0, 2.0, 2.0, 1.99999, 2.1, 1.5, 1.6, 1.6, 1.6, 1.6, 1.6, 1.6, 1.4, 1.5, 1.5, 1.5]
    schedule = PlateauConfig(factor=0.5, patience=patience, cooldown=cooldown)
    history: list[tuple[int, float]] = []
    span = Span(1.0, 0.0, 0, 1000, history)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience, cooldown=cooldown
    )
    for step, loss in enumerate(losses):
        history.append((10 * step, loss))
        reference.step(loss)
        assert schedule.rate(10 * step, span) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_a_plateau_in_the_warm_up_does_not_count_nor_what_is_still_to_come() -> None:
    span = SPAN._replace(history=[(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0), (6, 1.0), (9, 1.0)])
    schedule = PlateauConfig(patience=1)
    assert [schedule.rate(step, span) for step in (1, 3, 8, 9)] == [0.5, 1.0, 1.0, 0.1]


STAGED = decode(
    TrainConfig,
    {
        "gradient_accumulation_steps": 1,
        "batch_schedule": [
            {"start": 10, "gradient_accumulation_steps": 2},
            {"start": 20, "gradient_accumulation_steps": 4},
        ],
        "length_schedule": [{"until": 5, "block_size": 8}, {"until": 12, "block_size": 16}],
    },
)


def test_batches_grow_by_stages() -> None:
    assert [stages.accumulation(STAGED, step) for step in (0, 9, 10, 19, 20)] == [1, 1, 2, 2, 4]
    each = [stages.accumulation(STAGED, step) for step in range(40)]
    assert [stages.micro_batches(STAGED, n) for n in range(41)] == [
        sum(each[:n]) for n in range(41)
    ]


def test_the_horizon_in_tokens_counts_growing_batches() -> None:
    for tokens, steps in ((900, 9), (1000, 10), (1001, 11), (3000, 20), (3401, 22)):
        plan = STAGED.model_copy(update={"target_tokens": tokens})
        assert horizon(plan, 100) == steps


def test_windows_are_cut_by_stages() -> None:
    assert [stages.cut(STAGED, step, 32) for step in (0, 4, 5, 11, 12)] == [4, 4, 2, 2, 1]
    with pytest.raises(ConfigError, match=r"0.block_size=8 must divide model.block_size=20. Near"):
        stages.check(STAGED, 20)


def test_the_horizon_in_tokens_is_rounded_up_to_whole_updates() -> None:
    assert horizon(TrainConfig(target_tokens=1001), 100) == 11
    assert horizon(TrainConfig(max_iters=7), 100) == 7
