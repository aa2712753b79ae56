"""Cached generation against an uncached pass of the same rule, and what rows owe each other."""

import pytest
import torch

from espalier.engine.generate import Generation, Options, generate, steppable
from espalier.engine.sampling import Sampling
from espalier.engine.window import CROP, Rule
from espalier.errors import UserError
from espalier.nn.slots import Part
from tests.engine.models import BLOCK, KINDS, VOCAB, build, uncached

GREEDY = Sampling(temperature=0)
PROMPTS = [[3, 1, 4, 1, 5], [9], [(7 * i) % VOCAB for i in range(BLOCK + 9)], [2, 6]]


@pytest.fixture(params=KINDS)
def model(request):
    return build(request.param)


@pytest.fixture
def plain():
    return build("gpt2")


@pytest.mark.parametrize("rule", [CROP, Rule(6), Rule(BLOCK)], ids=str)
def test_cached_logits_equal_a_full_pass_over_the_window(model, rule):
    rows = Generation(model, BLOCK, PROMPTS, Options(30, sampling=GREEDY, rule=rule))
    for step in rows:
        for row, token, logits in zip(step.rows, step.tokens, step.logits, strict=True):
            want = uncached(model, rows.history[row][:-1], rule)
            torch.testing.assert_close(logits, want, atol=1e-5, rtol=0)
            best, second = want.topk(2).values
            assert best - second <= 1e-4 or token == want.argmax()
    assert [len(ids) for ids in rows.history] == [len(p) + 30 for p in PROMPTS]


def test_samples_of_one_prompt_read_it_once(plain):
    read = []
    plain.trunk.register_forward_pre_hook(lambda _, args: read.append(tuple(args[0].shape)))
    generate(plain, BLOCK, [[1, 2, 3]], Options(2, num_samples=4))
    assert read == [(1, 1), (1, 3), (4, 1)]  # states made, prompt read, one step for all


def test_samples_equal_rows_of_their_own(model):
    together = generate(model, BLOCK, [[1, 2, 3], [4]], Options(25, num_samples=3))
    first = generate(model, BLOCK, [[1, 2, 3]], Options(25, num_samples=3))
    assert together[:3] == first
    assert len({tuple(ids) for ids in together}) == 6


def test_a_row_does_not_depend_on_the_batch(model):
    alone = [generate(model, BLOCK, [prompt], Options(40))[0] for prompt in PROMPTS]
    assert generate(model, BLOCK, PROMPTS, Options(40)) == alone


def test_one_seed_gives_one_text_and_another_seed_another(plain):
    texts = [
        generate(plain, BLOCK, [[1]], Options(20, sampling=Sampling(seed=seed)))
        for seed in (7, 7, 8, 7 + 2**32)
    ]
    assert texts[0] == texts[1]
    assert len({str(text) for text in texts}) == 3


def test_a_row_ends_after_a_stop_token_and_the_others_go_on(plain):
    free = generate(plain, BLOCK, PROMPTS, Options(12, sampling=GREEDY))
    stop = free[0][4]
    cut = generate(plain, BLOCK, PROMPTS, Options(12, sampling=GREEDY, stop_ids={stop}))
    for got, want in zip(cut, free, strict=True):
        end = want.index(stop) + 1 if stop in want else len(want)
        assert got == want[:end]


def test_a_part_that_cannot_be_stepped_takes_full_passes(plain):
    class Unsteppable(Part):
        exempt = {"steps": "for the test"}

    want = generate(plain, BLOCK, PROMPTS, Options(20, sampling=GREEDY))
    assert steppable(plain)
    plain.odd = Unsteppable()
    assert not steppable(plain)
    widths = []
    plain.trunk.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
    assert generate(plain, BLOCK, PROMPTS, Options(20, sampling=GREEDY)) == want
    assert set(widths) == {BLOCK}


def test_ids_beyond_the_tokenizer_are_never_drawn(plain):
    drawn = generate(plain, BLOCK, [[0]], Options(50, num_samples=4, vocab_size=3))
    assert {token for ids in drawn for token in ids} == {0, 1, 2}


def test_a_model_in_training_is_sampled_without_dropout(plain):
    want = generate(plain, BLOCK, [[1]], Options(10, sampling=GREEDY))
    noisy = build("gpt2").train()
    for module in noisy.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.9
    assert generate(noisy, BLOCK, [[1]], Options(10, sampling=GREEDY)) == want
    assert noisy.training


def test_the_repetition_penalty_looks_at_prompt_and_answer(plain):
    strict = Sampling(temperature=0, repetition_penalty=3.0)
    rows = Generation(plain, BLOCK, [[1, 2, 3], [4]], Options(30, sampling=strict))
    for step in rows:
        for row, token, logits in zip(step.rows, step.tokens, step.logits, strict=True):
            for seen in set(rows.history[row][:-1]):
                logits[seen] = logits[seen] / 3 if logits[seen] > 0 else logits[seen] * 3
            assert token == logits.argmax()


def test_nothing_is_drawn_where_nothing_is_asked(plain):
    assert generate(plain, BLOCK, PROMPTS, Options(0)) == [[]] * 4


def test_broken_weights_are_named(plain):
    with torch.no_grad():
        plain.trunk.embed.weight[3] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        generate(plain, BLOCK, [[3]], Options(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Options(-1), "max_new_tokens must be 0 or more, got -1"),
        (lambda: Options(num_samples=0), "num_samples must be at least 1, got 0"),
        (
            lambda: generate(build("gpt2"), BLOCK, [[1]], Options(record=True)),
            "recorded on a CUDA device only, not on cpu",
        ),
        (lambda: Rule.parse("refill:0"), "must drop at least 1"),
        (lambda: Rule.parse("slide"), "no rule 'slide'"),
        (lambda: generate(build("gpt2"), BLOCK, [[]]), "empty prompt"),
        (lambda: generate(build("gpt2"), BLOCK, []), "no prompt: give at least one"),
        (lambda: generate(build("gpt2"), BLOCK, [[1]], Options(rule=Rule(17))), "block of 16"),
    ],
)
def test_what_has_no_meaning_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_rules_say_where_the_window_starts():
    assert [CROP.start(n, 8) for n in (1, 8, 9, 20)] == [0, 0, 1, 12]
    assert [Rule(3).start(n, 8) for n in (8, 9, 11, 12, 14, 15)] == [0, 3, 3, 6, 6, 9]
    assert [str(Rule.parse(text)) for text in ("crop", "refill:3")] == ["crop", "refill:3"]
