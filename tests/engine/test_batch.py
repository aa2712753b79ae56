"""Rows that join and leave a shared batch, held against each of them alone."""

import pytest

from espalier.engine.batch import Batch, Request
from espalier.engine.generate import Options, generate
from espalier.engine.sampling import Sampling
from espalier.engine.window import CROP, Rule
from espalier.errors import UserError
from espalier.nn.slots import Part
from tests.engine.models import BLOCK, KINDS, VOCAB, build

PROMPTS = [[3, 1, 4, 1, 5], [9], [(7 * i) % VOCAB for i in range(BLOCK + 9)], [2, 6], [9]]


@pytest.fixture(params=KINDS)
def model(request):
    return build(request.param)


@pytest.fixture
def plain():
    return build("gpt2")


def alone(model, request, rule=CROP):
    options = Options(
        request.max_new_tokens,
        first=request.number,
        sampling=request.sampling,
        rule=rule,
        stop_ids=request.stop_ids,
        vocab_size=request.vocab_size,
    )
    return generate(model, BLOCK, [request.prompt], options)[0]


def serve(batch, requests):
    """Every request joins as soon as a row is free; what each ticket got."""
    waiting, found = list(requests), {}
    order = []
    while waiting or batch.tickets:
        while waiting and len(batch.tickets) < batch.rows:
            order.append(batch.join(waiting.pop(0)))
        for grown in batch.step():
            found.setdefault(grown.ticket, []).append(grown.token)
    return [found[ticket] for ticket in order]


@pytest.mark.parametrize("rule", [CROP, Rule(6)], ids=str)
def test_rows_that_come_and_go_give_what_each_gives_alone(model, rule):
    lengths = [9, 30, 12, 25, 3]
    requests = [
        Request(prompt, length, Sampling(temperature=0.9, top_k=5 + number), number=number)
        for number, (prompt, length) in enumerate(zip(PROMPTS, lengths, strict=True))
    ]
    got = serve(Batch(model, BLOCK, rows=2, rule=rule), requests)
    assert got == [alone(model, request, rule) for request in requests]


def test_a_row_that_is_sent_away_leaves_the_others_as_they_are(plain):
    batch = Batch(plain, BLOCK, rows=3)
    requests = [Request(prompt, 12) for prompt in PROMPTS[:3]]
    first, second, third = (batch.join(request) for request in requests)
    found = {second: [], third: []}
    for turn in range(12):
        for grown in batch.step():
            found.setdefault(grown.ticket, []).append(grown.token)
        if turn == 4:
            batch.leave(first)
            batch.leave(first)
    assert found[second] == alone(plain, requests[1])
    assert found[third] == alone(plain, requests[2])
    assert found[first] == alone(plain, requests[0])[:5]
    assert batch.tickets == []
    assert batch.step() == []


def test_each_row_has_its_own_way_to_choose_and_to_end(plain):
    free = alone(plain, Request([1, 2], 10, Sampling(temperature=0)))
    requests = [
        Request([1, 2], 10, Sampling(temperature=0), stop_ids={free[3]}),
        Request([1, 2], 10, Sampling(temperature=1.3, repetition_penalty=2.0)),
        Request([4], 10, vocab_size=3),
    ]
    got = serve(Batch(plain, BLOCK, rows=3), requests)
    assert got[0] == free[: free.index(free[3]) + 1]
    assert got == [alone(plain, request) for request in requests]
    assert set(got[2]) <= {0, 1, 2}


def test_a_pass_costs_the_rows_in_use(plain):
    widths = []
    batch = Batch(plain, BLOCK, rows=5)
    plain.trunk.register_forward_pre_hook(lambda _, args: widths.append(tuple(args[0].shape)))
    batch.join(Request([1, 2, 3], 3))
    batch.join(Request([4], 3))
    while batch.tickets:
        batch.step()
    steps = [shape for shape in widths if shape[1] == 1 and shape[0] > 1]
    assert set(steps) == {(2, 1)}


def test_what_has_no_meaning_is_refused(plain):
    batch = Batch(plain, BLOCK, rows=1)
    batch.join(Request([1]))
    with pytest.raises(UserError, match="all 1 rows are taken"):
        batch.join(Request([2]))
    with pytest.raises(UserError, match="empty prompt"):
        Request([])
    with pytest.raises(UserError, match="max_new_tokens must be at least 1, got 0"):
        Request([1], 0)
    with pytest.raises(UserError, match="rng=rows"):
        Request([1], sampling=Sampling(rng="nanogpt"))

    class Unsteppable(Part):
        exempt = {"steps": "for the test"}

    plain.odd = Unsteppable()
    with pytest.raises(UserError, match="cannot be stepped"):
        Batch(plain, BLOCK)
