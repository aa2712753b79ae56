"""A text read again in windows gives what full passes token by token give."""

import math

import pytest
import torch

from espalier.engine.generate import Options, generate
from espalier.engine.repel import Cosine, Repulsion, directions, divergence, table
from espalier.engine.sampling import Sampling
from espalier.engine.trace import Look, trace
from espalier.engine.window import CROP, Rule
from espalier.errors import UserError
from tests.engine.models import BLOCK, VOCAB, build, uncached

IDS = [(7 * i * i + 3 * i) % VOCAB for i in range(45)]


@pytest.mark.parametrize("rule", [CROP, Rule(BLOCK), Rule(BLOCK // 2)], ids=str)
@pytest.mark.parametrize("kind", ["gpt2", "gqa-window-rotary"])
def test_every_token_is_seen_from_its_window(kind: str, rule: Rule) -> None:
    model = build(kind)
    found = trace(model, IDS, 3, BLOCK, rule=rule, look=Look(temperature=0.5, candidates=3))
    assert found.tokens.tolist() == IDS[3:]
    for line, place in enumerate(range(3, len(IDS))):
        logits = uncached(model, IDS[:place], rule)
        logs = (logits / 0.5).log_softmax(-1)
        token = IDS[place]
        assert found.logit[line].item() == pytest.approx(logits[token].item(), abs=1e-4)
        assert found.loss[line].item() == pytest.approx(-logs[token].item(), abs=1e-4)
        assert found.rank[line].item() == int((logits > logits[token]).sum()) + 1
        assert found.candidates[line].tolist() == logs.topk(3).indices.tolist()
        assert found.chances[line].sum() == pytest.approx(logs.topk(3).values.exp().sum().item())
        assert found.low[line].item() == pytest.approx(logits.min().item(), abs=1e-4)


def test_ids_that_cannot_come_have_no_share() -> None:
    small = [i % 20 for i in IDS]
    found = trace(build("gpt2"), small, 1, BLOCK, look=Look(vocab_size=20, candidates=VOCAB))
    assert found.candidates.shape == (len(small) - 1, 20)
    torch.testing.assert_close(found.chances.sum(-1), torch.ones(len(small) - 1))


def test_a_text_without_a_token_to_look_at_is_refused() -> None:
    with pytest.raises(UserError, match="has none to look at from 3 on"):
        trace(build("gpt2"), [1, 2, 3], 3, BLOCK)


SQUARE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])  # directions of three tokens


def test_tokens_are_lowered_by_their_likeness_to_the_last_ones() -> None:
    logits = torch.zeros(2, 3)
    one = Repulsion(SQUARE, Cosine(last=1, alpha=2.0))
    found = one(logits, [[1, 0], [0]])
    torch.testing.assert_close(found, torch.tensor([[-2.0, 0.0, -1.2]] * 2))
    two = Repulsion(SQUARE, Cosine(last=2, alpha=2.0))  # the nearer of both counts
    torch.testing.assert_close(two(logits, [[1, 0], [0]])[0], torch.tensor([-2.0, -2.0, -1.6]))
    torch.testing.assert_close(two(logits, [[1, 0], [0]])[1], torch.tensor([-2.0, 0.0, -1.2]))


def test_kl_of_before_and_after() -> None:
    before = torch.tensor([[0.5, 0.5, 0.0]]).log()
    after = torch.tensor([[0.25, 0.75, 0.0]]).log()
    wanted = 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)
    assert divergence(before, after).item() == pytest.approx(wanted)
    assert divergence(before, before).item() == 0


def test_directions_are_of_length_one_and_in_the_vocabularys_order() -> None:
    model = build("gpt2")
    found = table(model)
    assert found.shape == (VOCAB, 32)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(VOCAB))
    torch.testing.assert_close(directions(model, torch.tensor([5])), found[5:6])


def test_the_penalty_is_the_same_in_a_batch_and_without_a_cache() -> None:
    model, cosine = build("gqa-window-rotary"), Cosine(3, 4.0)
    options = Options(30, cosine=cosine, sampling=Sampling(temperature=0))
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    found = generate(model, BLOCK, prompts, options)
    push = Repulsion(table(model), cosine)
    for prompt, new in zip(prompts, found, strict=True):
        ids = list(prompt)
        for token in new:
            logits = push(uncached(model, ids, CROP)[None], [ids])[0]
            assert logits[token] >= logits.max() - 1e-4
            ids.append(token)
    assert found != generate(model, BLOCK, prompts, Options(30, sampling=Sampling(temperature=0)))


def test_a_trace_tells_what_the_penalty_did() -> None:
    model = build("gpt2")
    push = Repulsion(table(model), Cosine(2, 1.5))
    found = trace(model, IDS[:10], 4, BLOCK, look=Look(repulsion=push))
    for line, place in enumerate(range(4, 10)):
        before = uncached(model, IDS[:place], CROP)[None]
        wanted = divergence(before, push(before, [IDS[:place]])).item()
        assert found.divergence[line].item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(("last", "alpha"), [(0, 1.0), (3, math.nan)])
def test_penalties_without_a_meaning_are_refused(last: int, alpha: float) -> None:
    with pytest.raises(UserError, match="a cosine penalty"):
        Cosine(last, alpha)
