"""Speculative decoding: the same tokens when greedy, the same distribution when not."""

import pytest
import torch

from espalier.engine.generate import Options, generate
from espalier.engine.sampling import RowStreams, Sampling, probabilities
from espalier.engine.speculate import Draft, Speculation, draw, judge
from espalier.engine.window import Rule
from espalier.errors import UserError
from espalier.nn.slots import Part
from tests.engine.models import BLOCK, KINDS, build

GREEDY = Sampling(temperature=0)
PROMPT = [3, 1, 4, 1, 5]


@pytest.fixture(params=KINDS)
def model(request):
    return build(request.param)


@pytest.fixture
def plain():
    return build("gpt2")


def speculate(model, draft, prompt, options):
    row = Speculation(model, BLOCK, prompt, options, draft)
    for _ in row:
        pass
    return row.history[0][len(prompt) :], row


@pytest.mark.parametrize("ahead", [1, 3, 7])
def test_greedy_tokens_are_those_of_the_model_alone(model, ahead):
    for guesser in (build("gpt2"), model):
        got, _ = speculate(
            model, Draft(guesser, BLOCK, ahead), PROMPT, Options(25, sampling=GREEDY)
        )
        assert got == generate(model, BLOCK, [PROMPT], Options(25, sampling=GREEDY))[0]


def test_a_draft_that_is_the_model_itself_is_always_right(plain):
    _, row = speculate(plain, Draft(plain, BLOCK, 3), [1], Options(9))
    assert (row.passes, row.proposed, row.accepted) == (3, 6, 6)  # 1 after the prompt, then 4 + 4


def test_a_draft_for_a_window_or_a_part_that_cannot_be_stepped_goes_back_rightly(plain):
    class Unsteppable(Part):
        exempt = {"steps": "for the test"}

    want = generate(plain, BLOCK, [PROMPT], Options(10, sampling=GREEDY))[0]
    slow = build("gqa-window-rotary")
    slow.odd = Unsteppable()
    for guesser in (build("gqa-window-rotary"), slow):
        assert speculate(plain, Draft(guesser, BLOCK), PROMPT, Options(10, sampling=GREEDY))[0] == (
            want
        )


@torch.no_grad()
def joint(model, prompt, sampling, vocab, length):
    """Exact probabilities of every continuation of `length` tokens, by full passes."""
    table, rows = torch.ones(1, dtype=torch.float64), torch.tensor([prompt])
    for _ in range(length):
        probs = probabilities(model(rows)[:, -1, :vocab].double(), sampling)
        table = (table[:, None] * probs).flatten()
        after = torch.arange(vocab).repeat(len(rows))[:, None]
        rows = torch.cat([rows.repeat_interleave(vocab, 0), after], 1)
    return table


@pytest.mark.parametrize("how", [{}, {"top_k": 3}, {"temperature": 0.7, "top_p": 0.9}], ids=str)
def test_tokens_have_the_models_own_distribution(how):
    vocab, draws = 4, 300
    model, draft = build("qk-norm"), Draft(build("parallel"), BLOCK, 3)
    want = joint(model, PROMPT, Sampling(**how), vocab, 3)
    counts, accepted, proposed = torch.zeros(vocab**3, dtype=torch.float64), 0, 0
    for seed in range(draws):
        options = Options(5, sampling=Sampling(**how, seed=seed), vocab_size=vocab)
        (a, b, c, *_), row = speculate(model, draft, PROMPT, options)
        counts[(a * vocab + b) * vocab + c] += 1
        accepted, proposed = accepted + row.accepted, proposed + row.proposed
    assert 0.02 < accepted / proposed < 0.9  # both ways through the rule are taken
    assert not counts[want == 0].any()
    common = draws * want >= 5
    gaps = (counts - draws * want)[common] ** 2 / (draws * want)[common]
    freedom = int(common.sum())
    assert gaps.sum() < freedom + 4 * (2 * freedom) ** 0.5  # chi-square, four deviations


def test_the_rule_gives_the_models_distribution_worked_by_hand():
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], dtype=torch.float64)
    q = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    chance = RowStreams(1, ["rule"], torch.device("cpu"))
    kept, firsts, seconds, draws = 0, torch.zeros(3), torch.zeros(3), 20000
    for _ in range(draws):
        guess = draw(q, chance)
        stays, token = judge(p, [q], [guess], chance)
        kept += stays
        firsts[guess if stays else token] += 1
        if stays:
            seconds[token] += 1
    error = 4 * 0.5 / draws**0.5
    assert kept / draws == pytest.approx(0.2 + 0.3 + 0.2, abs=error)  # sum of min(p, q)
    assert (firsts / draws).tolist() == pytest.approx([0.5, 0.3, 0.2], abs=error)
    assert (seconds / kept).tolist() == pytest.approx([0.1, 0.2, 0.7], abs=error / 0.7)


def test_what_has_no_meaning_is_refused(plain):
    with pytest.raises(UserError, match="at least 1 token at a time, got 0"):
        Draft(plain, BLOCK, 0)
    with pytest.raises(UserError, match="rng=rows"):
        Speculation(plain, BLOCK, [1], Options(sampling=Sampling(rng="nanogpt")), Draft(plain, 16))
    with pytest.raises(UserError, match="empty prompt"):
        Speculation(plain, BLOCK, [], Options(), Draft(plain, 16))
    with pytest.raises(UserError, match="refill:17: drops more than the block of 16"):
        Speculation(plain, BLOCK, [1], Options(rule=Rule(17)), Draft(plain, 16))
    with pytest.raises(UserError, match="not recorded"):
        Speculation(plain, BLOCK, [1], Options(record=True), Draft(plain, 16))
