"""Heads are found by what they look at, whatever kind of attention they belong to."""

from typing import Any

import pytest
import torch

from espalier.analyze import heads, names, stream
from espalier.analyze.views import Seen
from espalier.config import decode
from espalier.errors import MachineError
from espalier.nn.gpt import GPT, GPTConfig, make
from tests.analyze import planted

SIZES = {"n_layer": 2, "n_embd": 16, "n_head": 2, "block_size": 8, "vocab_size": 11}


def prenorm(attention: object) -> dict[str, object]:
    return {"name": "prenorm", "attention": attention}


KINDS: dict[str, dict[str, Any]] = {
    "gpt": {},
    "grouped, windowed, with a sink": {
        "block": prenorm({"name": "causal", "n_kv_head": 1, "window": 4, "off_by_one": "head"}),
    },
    "consmax, rotary": {
        "position": "rotary",
        "block": prenorm({"name": "causal", "score": "consmax"}),
    },
    "infinite": {"block": prenorm({"name": "infinite", "join": "sum", "v_width": 6})},
    "mla": {"position": "rotary", "block": prenorm("mla")},
    "cortical": {"block": {"name": "cortical", "neurons": [4, 2]}},
    "feedback": {"stack": {"name": "feedback", "passes": 2}},
}
IDS = torch.arange(16).view(2, 8) % 11


def build(kind: str) -> GPT:
    return make(decode(GPTConfig, {**SIZES, **KINDS[kind]}), seed=3).eval()


def seen(model: GPT, **more: Any) -> Seen:
    def nothing(*_: object) -> Any:
        raise AssertionError("this view needs no text")

    return Seen(model, planted.TIME, planted.VOCAB, nothing, nothing, **more)


def test_the_planted_heads_are_found() -> None:
    rows = {row["head"]: row for row in heads.look(seen(planted.model()))["rows"]}
    assert set(rows) == planted.HEADS
    # position 0 can only look at itself, so 15 of the 15 others hit; so do all inductions
    assert rows[planted.PREVIOUS]["previous"] == pytest.approx(1, abs=1e-6)
    assert rows[planted.INDUCTION]["induction"] == pytest.approx(1, abs=1e-6)
    assert all(row["previous"] < 0.4 for name, row in rows.items() if name != planted.PREVIOUS)
    assert all(row["induction"] < 0.2 for name, row in rows.items() if name != planted.INDUCTION)


def test_scores_by_hand() -> None:
    weights = torch.zeros(1, 3, 4, 4)  # two tokens, twice
    weights[0, 0, 1:, :3] = torch.eye(3)  # always the token before
    weights[0, 1, 2, 1], weights[0, 1, 3, 2] = 1.0, 0.5  # behind the token's first place
    weights[0, 2, 2, 0] = 0.5  # the token's first place, in one row of two
    rows = heads.scores({"a": weights}, period=2)
    assert [row["head"] for row in rows] == ["a:0", "a:1", "a:2"]
    assert [row["previous"] for row in rows] == pytest.approx([1, 1.5 / 3, 0])
    assert [row["induction"] for row in rows] == pytest.approx([1, 0.75, 0])  # n = 2: the same
    assert [row["duplicate"] for row in rows] == pytest.approx([0, 0, 0.25])


def test_repeated_tokens_are_different_and_come_twice() -> None:
    ids = heads.repeated(11, 5, 7, seed=1)
    assert ids.shape == (7, 10)
    assert torch.equal(ids[:, :5], ids[:, 5:])
    assert all(len(row.unique()) == 5 for row in ids)
    assert torch.equal(ids, heads.repeated(11, 5, 7, seed=1))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_patterns_are_the_weights_that_values_are_mixed_with(kind: str) -> None:
    model = build(kind)
    _, cache = names.run_with_cache(model, IDS)
    found = heads.patterns(model, IDS)
    calls = 2 if kind == "feedback" else 1
    assert len(found) == calls * len(stream.mixers(model))
    patterns = [name for name in cache if name.endswith("hook_pattern")]
    assert len(patterns) == len(found)
    for name, weights in zip(patterns, found.values(), strict=True):
        v, z = (cache[name.replace("pattern", what)] for what in "vz")
        v = v.repeat_interleave(weights.shape[1] // v.shape[2], 2)
        assert torch.equal(cache[name], weights)
        torch.testing.assert_close(torch.einsum("bhqk,bkhd->bqhd", weights, v), z)


def test_what_has_no_weights_is_told() -> None:
    tree = {**SIZES, "cycle": [{"block": {"attention": "linear"}}, {"block": {}}]}
    model = make(decode(GPTConfig, tree), seed=0)
    (line,) = heads.without(model).items()
    assert line[0] == "trunk.stack.blocks.0.attention"
    assert line[1].startswith("LinearAttention keeps sums over all keys")


@torch.no_grad()
def test_names_of_transformer_lens() -> None:
    model = build("gpt")
    logits, cache = names.run_with_cache(model, IDS)
    torch.testing.assert_close(logits, model(IDS))
    assert cache["pattern", 0].shape == (2, 2, 8, 8)
    assert cache["resid_post", -1] is cache["blocks.1.hook_resid_post"]
    assert torch.equal(cache["resid_pre", 1], cache["resid_post", 0])
    assert cache["blocks.0.mlp.hook_post"].shape == (2, 8, 64)
    assert cache.stack("z").shape == (2, 2, 8, 2, 8)
    middle = cache["resid_pre", 0] + cache["attn_out", 0]
    assert torch.equal(cache["resid_mid", 0], middle)
    assert "blocks.0.neurons.1.attn.hook_pattern" in names.run_with_cache(build("cortical"), IDS)[1]
    assert names.run_with_cache(build("feedback"), IDS)[1].layers == 4
    assert all("mix" not in vars(model.get_submodule(path)) for path in stream.mixers(model))


def test_nnsight_is_asked_for_when_it_is_used() -> None:
    try:
        import nnsight  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(MachineError, match=r"pip install 'espalier\[interp\]'"):
            names.nnsight(build("gpt"))
        pytest.skip("nnsight is not here")
    model = build("gpt")
    wrapped = names.nnsight(model)
    with wrapped.trace(IDS):
        hidden = wrapped.trunk.stack.blocks[0].output.save()
    torch.testing.assert_close(hidden, stream.read(model, IDS).points["trunk.stack.blocks.0"])
