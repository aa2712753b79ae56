"""Continuations scored together are what each is alone."""

import pytest
import torch

from espalier.errors import UserError
from espalier.evaluate.likelihood import Scorer
from tests.engine.models import BLOCK, KINDS, VOCAB, build


@torch.no_grad()
def alone(model, context, continuation):
    whole = [*context, *continuation][-(BLOCK + 1) :]
    logits = model(torch.tensor([whole[:-1]]))[0, -len(continuation) :].double()
    wanted = torch.tensor(continuation)
    total = logits.log_softmax(-1)[range(len(wanted)), wanted].sum()
    return float(total), bool((logits.argmax(-1) == wanted).all())


def some(seed=0):
    """Contexts of many lengths, some too long, with one to five continuations."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n):
        return torch.randint(VOCAB, (n,), generator=generator).tolist()

    pairs = []
    for length, continuations in [(3, [1, 2, 5]), (1, [1]), (12, [4]), (14, [1, 2, 7]), (40, [16])]:
        context = draw(length)
        pairs += [(context, draw(n)) for n in continuations]
    return pairs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_each_is_what_a_full_pass_gives(kind, rows):
    model, pairs = build(kind), some()
    for found, pair in zip(Scorer(model, BLOCK, rows)(pairs), pairs, strict=True):
        total, greedy = alone(model, *pair)
        assert found.total == pytest.approx(total, rel=1e-5)
        assert found.greedy == greedy


def test_the_likeliest_continuation_is_greedy():
    model = build("gpt2")
    context = [3, 1, 4]
    first = int(model(torch.tensor([context]))[0, -1].argmax())
    second = int(model(torch.tensor([[*context, first]]))[0, -1].argmax())
    pairs = [(context, [first, second]), (context, [first, (second + 1) % VOCAB])]
    assert [one.greedy for one in Scorer(model, BLOCK)(pairs)] == [True, False]


def test_a_shared_context_is_read_once():
    score = Scorer(build("gpt2"), BLOCK)
    score([([1, 2, 3], [i]) for i in range(9)])
    assert score.passes == 1  # single tokens need nothing after it
    score([([1, 2, 3], [i, i]) for i in range(9)])
    assert score.passes == 1 + 2


def test_what_cannot_be_scored_is_refused():
    score = Scorer(build("gpt2"), BLOCK)
    with pytest.raises(UserError, match="a token each"):
        score([([1], [])])
    with pytest.raises(UserError, match="17 tokens does not fit the model, which reads 16"):
        score([([1], [2] * 17)])
