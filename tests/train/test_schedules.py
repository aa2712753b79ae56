"""Learning rates by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.config import decode, names, resolve
from espalier.train.schedule.constant import ConstantConfig
from espalier.train.schedule.cosine import CosineConfig
from espalier.train.schedule.wsd import WsdConfig
from espalier.train.settings import TrainConfig
from espalier.train.setup import horizon
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


def test_the_horizon_in_tokens_is_rounded_up_to_whole_updates() -> None:
    assert horizon(TrainConfig(target_tokens=1001), 100) == 11
    assert horizon(TrainConfig(max_iters=7), 100) == 7
