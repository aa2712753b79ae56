"""Generation from prompts with images in them: cached, batched, and kept out of loops."""

import itertools
from dataclasses import replace

import pytest
import torch

from espalier.config import decode, encode
from espalier.engine.batch import Batch, Request
from espalier.engine.generate import Generation, Options, generate
from espalier.engine.loops import NoRepeat, loops
from espalier.engine.naive import compare
from espalier.engine.sampling import Sampling
from espalier.engine.window import Rule
from espalier.errors import UserError
from espalier.nn.front.deep_encoder import DeepEncoderConfig
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.nn.sight import Sight
from espalier.nn.state import Image
from espalier.tree import merge
from tests.engine.models import KINDS

MINIMAL = {"n_layer": 2, "n_embd": 32, "n_head": 4, "block_size": 64, "vocab_size": 29}
GREEDY = Options(12, sampling=Sampling(temperature=0))
BLOCK = 64


def model(kind: str = "gqa-window-rotary") -> GPT:
    tree = {
        **MINIMAL,
        "front": {"name": "deep_encoder", **DeepEncoderConfig.small},
    }
    made = make(decode(GPTConfig, merge(encode(decode(GPTConfig, tree)), KINDS[kind])), seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # far from the start, where every token looks alike
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return made.eval()


def image(seed: int, side: int = 128) -> Image:
    noise = torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed))
    return noise * 2 - 1, None


def prompt(length: int, *images: tuple[Image, int]) -> tuple[list[int], Sight | None]:
    """`length` words behind the features of images."""
    seen = sum(features for _, features in images)
    ids = [28] * seen + [(5 * length + 3 * i) % 28 for i in range(length)]
    slots = torch.tensor([[*range(seen), *[-1] * length]])
    positions = torch.arange(len(ids))[None]
    return ids, Sight([[one for one, _ in images]], slots, positions) if images else None


PROMPTS = [
    prompt(3, (image(1), 7)),
    prompt(9),
    prompt(5, (image(2, 256), 21), (image(1), 7)),
    prompt(3, (image(4), 7)),  # the first one's words, another image
]


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("number", range(4))
def test_cached_is_naive_on_every_prompt(kind: str, number: int) -> None:
    ids, sight = PROMPTS[number]
    found = compare(model(kind), BLOCK, ids, GREEDY, sight)
    assert found.parted is None
    assert found.tokens == 12
    assert found.error < 1e-4


def test_a_difference_between_the_two_ways_is_found() -> None:
    net, (ids, sight) = model(), PROMPTS[0]
    found = Generation(net, BLOCK, [ids], GREEDY, sights=[sight])
    blind = Generation(net, BLOCK, [ids], GREEDY)
    first, other = found.step(), blind.step()
    assert first is not None
    assert other is not None
    assert not torch.allclose(first.logits, other.logits, atol=0.1)


def test_rows_of_different_lengths_give_what_each_gives_alone() -> None:
    net = model()
    together = generate(net, BLOCK, [p for p, _ in PROMPTS], GREEDY, sights=[s for _, s in PROMPTS])
    alone = [generate(net, BLOCK, [p], GREEDY, sights=[s])[0] for p, s in PROMPTS]
    assert together == alone
    assert together[0] != together[3]


@pytest.mark.parametrize("rule", [Rule(), Rule(8)])
def test_an_image_leaves_the_window_feature_by_feature(rule: Rule) -> None:
    ids, sight = prompt(4, (image(1), 7))
    found = compare(model(), 16, ids, replace(GREEDY, rule=rule, max_new_tokens=14), sight)
    assert found.parted is None
    assert found.error < 1e-4


def test_samples_of_a_page_differ_from_the_first_token_on() -> None:
    ids, sight = PROMPTS[0]
    options = Options(3, num_samples=16, sampling=Sampling(temperature=3.0))
    found = generate(model(), BLOCK, [ids], options, sights=[sight])
    assert len({row[0] for row in found}) > 4


def test_rows_that_join_and_leave_see_their_images() -> None:
    net = model()
    batch = Batch(net, BLOCK, rows=3)
    tickets, wanted = [], []
    for ids, sight in PROMPTS[:3]:
        tickets.append(
            batch.join(Request(ids, 12, Sampling(temperature=0), sight=sight)),
        )
        wanted.append(generate(net, BLOCK, [ids], GREEDY, sights=[sight])[0])
    grown: dict[int, list[int]] = {ticket: [] for ticket in tickets}
    while batch.tickets:
        for one in batch.step():
            grown[one.ticket].append(one.token)
    assert [grown[ticket] for ticket in tickets] == wanted


def test_an_n_gram_does_not_come_back_within_its_window() -> None:
    rule = NoRepeat(3, window=6)
    assert rule.forbidden([1, 2, 3, 9, 1, 2]) == [3]
    assert rule.forbidden([1, 2, 3, 9, 9, 9, 1, 2]) == []
    assert rule.forbidden([1, 2]) == []
    assert NoRepeat(1, window=3).forbidden([7, 1, 2, 1]) == [1, 2]
    assert NoRepeat(2, window=9).forbidden([4, 4, 5, 4]) == [4, 5]


def test_what_is_forbidden_is_not_drawn() -> None:
    ids, sight = PROMPTS[0]
    options = replace(GREEDY, max_new_tokens=40, no_repeat=NoRepeat(2, 90), never=(28, 3))
    found = generate(model(), BLOCK, [ids], options, sights=[sight])[0]
    pairs = list(itertools.pairwise(found))
    assert len(set(pairs)) == len(pairs)
    assert not {28, 3} & set(found)


def test_going_round_in_a_circle_is_a_loop() -> None:
    assert loops([9, *[1, 2, 3] * 8])
    assert loops([5] * 24)
    assert not loops([5] * 23)
    assert not loops([*[1, 2, 3] * 8, 9])
    assert not loops(list(range(200)))
    assert not loops([])


def test_a_row_that_loops_ends_by_itself() -> None:
    ids, sight = PROMPTS[0]
    net = model()
    plain = generate(net, BLOCK, [ids], replace(GREEDY, max_new_tokens=200), sights=[sight])[0]
    assert loops(plain)  # greedy, and nothing learnt: it goes round
    options = replace(GREEDY, max_new_tokens=200, stop_loops=True)
    rows = Generation(net, BLOCK, [ids, PROMPTS[1][0]], options, sights=[sight, None])
    for _ in rows:
        pass
    short = rows.history[0][len(ids) :]
    assert 0 in rows.looped
    assert short == plain[: len(short)]
    assert len(short) < 200


def test_an_n_gram_longer_than_its_window_has_no_meaning() -> None:
    with pytest.raises(UserError, match="an n-gram of 9 tokens within 4"):
        NoRepeat(9, 4)
