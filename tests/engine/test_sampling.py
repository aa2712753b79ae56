"""Filters against values worked by hand, and laws that hold for any logits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from espalier.config import names
from espalier.engine.sampling import (
    COLDEST,
    HARSHEST,
    HOTTEST,
    MILDEST,
    NanoGPTStream,
    RowStreams,
    Sampling,
    choose,
    desk,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalise,
    probabilities,
    shortlist,
)
from espalier.errors import ConfigError, UserError
from espalier.nn.slots import ScoreConfig

CPU = torch.device("cpu")
# probabilities 0.4, 0.3, 0.2, 0.1 in a row's order 2, 0, 3, 1
LOGITS = torch.tensor([[0.3, 0.1, 0.4, 0.2]]).log()


def kept(logits: torch.Tensor) -> list[int]:
    return logits[0].isfinite().nonzero()[:, 0].tolist()


def test_top_k_keeps_the_likeliest_and_those_level_with_the_last():
    assert kept(keep_top_k(LOGITS, 2)) == [0, 2]
    assert kept(keep_top_k(torch.tensor([[1.0, 2.0, 1.0, 0.0]]), 2)) == [0, 1, 2]
    assert kept(keep_top_k(LOGITS, 99)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("p", "want"), [(0.01, [2]), (0.39, [2]), (0.5, [0, 2]), (0.69, [0, 2]), (0.8, [0, 2, 3])]
)
def test_top_p_keeps_the_smallest_set_that_holds_p(p, want):
    assert kept(keep_top_p(LOGITS, p)) == want


def test_min_p_is_relative_to_the_likeliest():
    assert kept(keep_min_p(LOGITS, 0.6)) == [0, 2]
    assert kept(keep_min_p(LOGITS, 1.0)) == [2]
    assert kept(keep_min_p(LOGITS, 0.0)) == [0, 1, 2, 3]


def test_the_penalty_lowers_whatever_the_sign():
    logits, seen = torch.tensor([[4.0, -4.0, 4.0, -4.0]]), torch.tensor([[1, 1, 0, 0]]).bool()
    assert penalise(logits, seen, 2.0, "signed").tolist() == [[2.0, -8.0, 4.0, -4.0]]


def test_the_published_penalty_raises_negative_logits():
    logits, seen = torch.tensor([[4.0, -4.0, 4.0, -4.0]]), torch.tensor([[1, 1, 0, 0]]).bool()
    assert penalise(logits, seen, 2.0, "published").tolist() == [[2.0, -2.0, 4.0, -4.0]]


def test_temperature_sharpens_by_hand():
    probs = probabilities(LOGITS, Sampling(temperature=0.5))
    torch.testing.assert_close(probs, torch.tensor([[0.09, 0.01, 0.16, 0.04]]) / 0.30)


def test_temperature_zero_takes_the_likeliest():
    assert probabilities(LOGITS, Sampling(temperature=0)).tolist() == [[0, 0, 1, 0]]


def test_filters_follow_one_another():
    # top-k leaves 4:3:2, of which 0.4/0.9 < 0.5, so that top-p takes two; min-p drops 3 < 0.8 * 4
    probs = probabilities(LOGITS, Sampling(top_k=3, top_p=0.5, min_p=0.8))
    assert probs.tolist() == [[0, 0, 1, 0]]
    probs = probabilities(LOGITS, Sampling(top_k=3, top_p=0.5))
    torch.testing.assert_close(probs, torch.tensor([[3 / 7, 0, 4 / 7, 0]]))


some_logits = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=40).map(
    lambda values: torch.tensor([values])
)


@settings(deadline=None)
@given(some_logits, st.floats(0.01, 1.0))
def test_top_p_keeps_enough_and_not_one_more(logits, p):
    probs = logits.double().softmax(-1)[0]
    inside = keep_top_p(logits, p)[0].isfinite()
    held, least = probs[inside].sum(), probs[inside].min()
    assert held >= p - 1e-12
    assert inside.sum() == 1 or held - least < p
    assert (probs[~inside] <= least).all()


@settings(deadline=None)
@given(some_logits, st.integers(1, 50))
def test_top_k_keeps_at_least_k_and_only_the_likeliest(logits, k):
    inside = keep_top_k(logits, k)[0].isfinite()
    assert inside.sum() >= min(k, logits.shape[1])
    assert (logits[0] > logits[0][inside].min()).sum() < k


@settings(deadline=None)
@given(some_logits, st.floats(0.001, 1.0))
def test_min_p_keeps_the_likeliest_and_all_within_its_share(logits, p):
    probs = logits.double().softmax(-1)[0]
    inside = keep_min_p(logits, p)[0].isfinite()
    assert inside[probs.argmax()]
    assert (probs[inside] >= p * probs.max() * (1 - 1e-5)).all()
    assert (probs[~inside] <= p * probs.max() * (1 + 1e-5)).all()


@settings(deadline=None)
@given(some_logits, st.floats(1.0, 10.0))
def test_the_signed_penalty_never_raises_a_probability_it_looks_at(logits, penalty):
    seen = torch.zeros(logits.shape, dtype=torch.bool)
    seen[0, 0] = True
    assert penalise(logits, seen, penalty, "signed")[0, 0] <= logits[0, 0]


def test_a_stream_draws_with_the_probabilities_it_is_given():
    probs = LOGITS.exp().repeat(1, 1)
    stream = RowStreams(1, ["a"], CPU)
    drawn = torch.cat([stream.draw(probs, [0]) for _ in range(4000)])
    share = torch.bincount(drawn, minlength=4) / 4000
    # five standard deviations of a share of 4000
    assert ((share - probs[0]).abs() < 5 * (probs[0] * (1 - probs[0]) / 4000).sqrt()).all()


def test_a_stream_never_draws_what_was_filtered_out():
    probs = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]])
    stream = RowStreams(2, ["a"], CPU)
    assert {int(stream.draw(probs, [0])) for _ in range(500)} == {1, 3}


def test_the_nanogpt_stream_is_multinomial_after_manual_seed():
    probs = torch.rand(3, 50, generator=torch.Generator().manual_seed(0)).softmax(-1)
    stream = NanoGPTStream(1337, CPU)
    mine = [stream.draw(probs, [0, 1, 2]).tolist() for _ in range(20)]
    with torch.random.fork_rng():
        torch.manual_seed(1337)
        assert mine == [torch.multinomial(probs, 1)[:, 0].tolist() for _ in range(20)]


@pytest.mark.parametrize("temperature", [COLDEST, HOTTEST])
@pytest.mark.parametrize("penalty", [MILDEST, HARSHEST])
def test_the_ends_of_what_is_taken_still_give_probabilities(temperature, penalty):
    logits = torch.tensor([[-3e4, 0.0, 3e4, -math.inf]])
    sampling = Sampling(temperature=temperature, repetition_penalty=penalty)
    probs = probabilities(logits, sampling, torch.ones(1, 4, dtype=torch.bool))
    expected = [0, 0, 1, 0] if temperature == COLDEST else [1 / 3, 1 / 3, 1 / 3, 0]
    assert probs[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", -1.0, "temperature must be 0 .greedy., or from 1e-30 to 1e.30, got -1"),
        ("temperature", math.nan, "temperature must be a finite number"),
        ("top_k", 0, "top_k must be at least 1, got 0"),
        ("top_p", 0.0, "top_p must be above 0 and at most 1, got 0"),
        ("top_p", 1.5, "top_p must be above 0 and at most 1, got 1.5"),
        ("min_p", -0.1, "min_p must be from 0 to 1"),
        ("repetition_penalty", 0.0, "repetition_penalty must be from 0.01 to 100"),
        ("seed", 2**63, "seed must be from 0 to"),
    ],
)
def test_values_without_a_meaning_are_refused(field, value, message):
    with pytest.raises(UserError, match=message):
        Sampling(**{field: value})


def test_a_stream_on_the_cpu_draws_for_a_model_on_a_gpu():
    stream = RowStreams(1, ["a"], CPU)
    stream.uniform()
    with FakeTensorMode(allow_non_fake_inputs=True):
        token = stream.draw(torch.ones(1, 5, device="cuda"), [0])
    assert token.device.type == "cuda"


def test_tokens_are_chosen_where_there_is_float64():
    assert [desk(torch.device(kind)).type for kind in ("cpu", "cuda", "mps")] == [
        "cpu",
        "cuda",
        "cpu",
    ]


@pytest.mark.parametrize("how", [{}, {"top_p": 0.7}, {"min_p": 0.3}, {"temperature": 0.5}], ids=str)
def test_a_draw_from_the_shortlist_is_the_draw_from_all(how):
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(2))
    sampling = Sampling(top_k=7, **how)
    streams = ["a", "b", "c", "d"]
    short, full = (RowStreams(9, streams, CPU) for _ in range(2))
    for _ in range(100):
        want = full.draw(probabilities(logits, sampling), range(4))
        assert torch.equal(choose(logits, sampling, short, range(4)), want)


def test_the_shortlist_holds_what_top_k_keeps_by_rising_id():
    found = shortlist(LOGITS, Sampling(top_k=2))
    assert found is not None
    torch.testing.assert_close(found[0], torch.tensor([[3 / 7, 4 / 7]]))
    assert found[1].tolist() == [[0, 2]]
    level = torch.tensor([[1.0, 2.0, 1.0, 0.0]])
    assert shortlist(level, Sampling(top_k=2)) is None  # three stay
    assert shortlist(LOGITS, Sampling(top_k=4)) is None
    assert shortlist(LOGITS, Sampling()) is None


def test_a_score_stands_in_for_softmax():
    logits = torch.tensor([[3.0, 1.0, 1.0, -math.inf]])
    shares = probabilities(logits, Sampling(score="softermax"))  # 8, 2, 2 of 12
    torch.testing.assert_close(shares, torch.tensor([[8.0, 2.0, 2.0, 0.0]]) / 12)
    own = Sampling(score="{name: relumax, divisor: 7}")
    torch.testing.assert_close(probabilities(logits, own), torch.tensor([[0.6, 0.2, 0.2, 0]]))


@pytest.mark.parametrize("score", names(ScoreConfig))
def test_any_score_can_be_sampled_by(score):
    torch.manual_seed(0)
    logits = torch.randn(3, 50)
    short = shortlist(logits, Sampling(score=score, top_k=5))
    assert short is not None
    whole = probabilities(logits, Sampling(score=score, top_k=5))
    torch.testing.assert_close(whole.gather(1, short[1]), short[0])
    torch.testing.assert_close(whole.sum(-1), torch.ones(3))


def test_a_score_that_is_unknown_or_gives_nothing_is_refused():
    with pytest.raises(ConfigError, match="no score named 'softmx'"):
        Sampling(score="softmx")
    with pytest.raises(UserError, match="relumax gives no token a weight"):
        probabilities(-torch.ones(1, 3), Sampling(score="relumax"))
