"""Suites are data; their scores are what a pencil finds."""

import pytest

from espalier.config import decode
from espalier.data.tokenizer.byte import ByteTokenizer
from espalier.data.tokenizer.char import CharTokenizer
from espalier.engine.text import Session
from espalier.errors import ConfigError, UserError
from espalier.evaluate import judging, suites
from espalier.evaluate.judging import Judge, loops, repeated, share
from espalier.evaluate.likelihood import Likelihood
from espalier.evaluate.suites import Suite
from tests.engine.models import BLOCK, build

SYMBOLS = "abcdefghijklmnopqrstuvwxyz .,"


def judge(monkeypatch, answers=(), totals=()):
    """One that hears these answers and log-probabilities, whatever is asked."""
    made = Judge(Session(build("gpt2"), CharTokenizer(SYMBOLS), BLOCK), rows=4)
    monkeypatch.setattr(judging.Speaker, "__call__", lambda self, *asked: list(answers))
    made.score = lambda pairs: [Likelihood(total, False) for total in totals]
    return made


def suite(rule, *items):
    return decode(Suite, {"about": "a test", "rule": rule, "items": list(items)})


def test_every_shipped_suite_is_sound():
    found = suites.read("all")
    assert set(found) == {
        "arithmetic", "facts", "in_context", "instructions", "prompt_sensitivity", "repetition",
    }  # fmt: skip
    assert all(len(one.items) >= 12 for one in found.values())


def test_shipped_sums_are_right():
    for item in suites.read("arithmetic")["arithmetic"].items:
        for line in f"{item.prompt} {item.right[0]}".splitlines():
            a, sign, b, _, result = line.split()
            assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign] == int(
                result
            )


def test_an_exact_answer_is_the_expected_text_and_no_more(monkeypatch):
    items = [{"prompt": "a", "expected": e} for e in ("yes", "yes", ["no", "nope"])]
    made = judge(monkeypatch, [" yes ", "yes indeed", "nope"])(suite("exact", *items), seed=1)
    assert [one["value"] for one in made["answers"]] == [1, 0, 1]
    assert made["scores"]["exact"]["mean"] == 2 / 3
    assert made["scores"]["exact"]["by"] == "Wilson"


def test_contains_looks_anywhere_and_not_at_capitals(monkeypatch):
    items = [{"prompt": "a", "expected": "Paris"}] * 2
    made = judge(monkeypatch, ["it is paris.", "rome"])(suite("contains", *items), seed=1)
    assert [one["value"] for one in made["answers"]] == [1, 0]


def test_a_choice_is_the_likeliest_and_chance_stands_beside_it(monkeypatch):
    item = {"prompt": "a", "expected": " b", "choices": [" a", " b", " c", " d"]}
    totals = [-2.0, -1.0, -3.0, -4.0, -1.0, -2.0, -3.0, -4.0]
    made = judge(monkeypatch, totals=totals)(suite("choice", item, item), seed=1)
    assert [one["value"] for one in made["answers"]] == [1, 0]
    assert made["scores"]["choice"]["chance"] == 0.25
    assert made["answers"][1]["picked"] == " a"


def test_spread_is_how_far_the_probability_goes_apart(monkeypatch):
    item = {"prompts": ["a", "b"], "expected": " a", "choices": [" a", " b"]}
    # first prompt: 1/2; second: e^-1 / (e^-1 + e^-3) = 0.8808
    made = judge(monkeypatch, totals=[-1.0, -1.0, -1.0, -3.0])(suite("spread", item), seed=1)
    score = made["scores"]["spread"]
    assert score["mean"] == pytest.approx(0.880797 - 0.5, abs=1e-6)
    assert (score["right"], score["better"], score["low"]) == (1.0, "lower", None)


def test_repetition_counts_the_4_grams_that_come_again(monkeypatch):
    assert repeated(["a", "b", "c", "d", "e"]) == 0  # abcd, bcde
    assert repeated(["a", "b", "a", "b", "a", "b", "a", "b"]) == 1 - 2 / 5  # abab, baba
    assert repeated(["a", "b", "c"]) == 0
    made = judge(monkeypatch, ["a b " * 4])(suite("repetition", {"prompt": "a"}), seed=1)
    assert made["scores"]["repetition"]["mean"] == 1 - 2 / 5
    assert made["scores"]["repetition"]["loops"]["mean"] == 1


def test_a_loop_is_a_unit_three_times_at_the_end():
    assert loops(["so", "it", "was", "it", "was", "it", "was"])
    assert not loops(["so", "it", "was", "it", "was", "not"])
    assert loops(["no"] * 3)
    assert not loops(["no"] * 2)


def test_a_share_is_among_the_choices_alone():
    assert share([-1000.0, -1000.0], 1) == 0.5


def test_what_a_tokenizer_cannot_write_is_left_out_and_counted(monkeypatch):
    items = [{"prompt": "a", "expected": "b"}, {"prompt": "5 + 2", "expected": "7"}]
    made = judge(monkeypatch, ["b"])(suite("exact", *items), seed=1)
    assert (made["items"], made["unwritable"], made["scores"]["exact"]["items"]) == (2, 1, 1)


def test_company_changes_no_score():
    whole = suites.read("facts")["facts"]
    session = Session(_bytes(), ByteTokenizer(), 64)
    one, many = (Judge(session, rows)(whole, 1)["answers"] for rows in (1, 7))
    assert [a["picked"] for a in one] == [b["picked"] for b in many]
    assert [a["probability"] for a in one] == pytest.approx([b["probability"] for b in many])


def _bytes():
    from espalier.nn.gpt import GPTConfig, make

    tree = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 64, "vocab_size": 256}
    return make(decode(GPTConfig, tree), seed=3).eval()


@pytest.mark.parametrize(
    ("rule", "item", "line"),
    [
        ("exact", {"expected": "a"}, "give prompt, or prompts"),
        ("exact", {"prompt": "a"}, "exact needs what is expected"),
        ("exact", {"prompts": ["a", "b"], "expected": "a"}, "exact takes one prompt"),
        ("choice", {"prompt": "a", "expected": "b", "choices": ["c", "d"]}, "is one of them"),
        ("spread", {"prompts": ["a"], "expected": "a", "choices": ["a", "b"]}, "two at least"),
        ("guess", {"prompt": "a"}, "rule"),
        ("exact", {"prompt": "a", "expected": "a", "shots": 3}, "unknown field 'shots'"),
    ],
)
def test_an_unsound_suite_is_one_clear_line(rule, item, line):
    with pytest.raises(ConfigError, match=line):
        suite(rule, item)


def test_a_misspelt_suite_is_named():
    with pytest.raises(UserError, match=r"no behaviour suite 'fact'\. Did you mean 'facts'"):
        suites.read("fact")
