"""Kinds of attention against the plainest way to write each, in float64."""

import math

import pytest
import torch
from torch import Tensor

from espalier.config import decode
from espalier.errors import ConfigError
from espalier.nn.attention.elementwise_linear import ElementwiseLinearConfig
from espalier.nn.attention.identity import IdentityConfig
from espalier.nn.attention.infinite import InfiniteConfig
from espalier.nn.attention.linear import LinearAttentionConfig
from espalier.nn.attention.mla import MlaConfig
from espalier.nn.attention.ssm import SsmConfig
from espalier.nn.scan import CHUNK, scan, taps
from espalier.nn.slots import AttentionConfig, Dims, Part, reset
from espalier.nn.state import KV, Carry, Pass, Tail, at, leaves

DIMS = Dims(n_layer=2, n_embd=12, n_head=3, block_size=32, vocab_size=6, std=0.5, residual_std=0.5)
TIME = CHUNK + 9  # so that a second chunk begins
DRAWN = torch.Generator().manual_seed(0)
X = torch.randn(2, TIME, 12, generator=DRAWN, dtype=torch.float64)
NOW = at(torch.zeros(2, TIME, dtype=torch.long))


def built(kind: type[AttentionConfig], **fields: object) -> Part:
    part = decode(kind, fields).build(DIMS, 0)
    reset(part, 0)
    return part.double().eval()


def product(part: Part, name: str, x: Tensor) -> Tensor:
    return part.get_submodule(name)(x, NOW)


def softmax_of_the_past(scores: Tensor) -> Tensor:
    hidden = torch.ones(TIME, TIME, dtype=torch.bool).triu(1)
    return scores.masked_fill(hidden, float("-inf")).softmax(-1)


@torch.no_grad()
@pytest.mark.parametrize("join", ["concat", "sum"])
def test_infinite_heads_have_widths_of_their_own(join: str) -> None:
    part = built(InfiniteConfig, n_head=5, qk_width=3, v_width=7, join=join)
    q, k, v = product(part, "qkv", X).split([15, 15, 35], -1)
    heads = []
    for h in range(5):
        own = [t[..., h * w : (h + 1) * w] for t, w in ((q, 3), (k, 3), (v, 7))]
        scores = own[0] @ own[1].transpose(1, 2) / math.sqrt(3)
        heads.append(softmax_of_the_past(scores) @ own[2])
    joined = torch.cat(heads, -1) if join == "concat" else torch.stack(heads).sum(0)
    torch.testing.assert_close(part(X, NOW), product(part, "out", joined))
    assert part.get_parameter("out.weight").shape == (12, 35 if join == "concat" else 7)


@torch.no_grad()
def test_linear_attention_is_a_normalised_sum_of_kernels() -> None:
    part = built(LinearAttentionConfig, alpha=0.5)
    q, k, v = (t.unflatten(-1, (3, 4)) for t in product(part, "qkv", X).chunk(3, -1))
    q, k = (torch.nn.functional.elu(0.5 * t) + 1 for t in (q, k))
    weights = torch.einsum("bqhw,bkhw->bhqk", q, k).tril()
    weights = weights / weights.sum(-1, keepdim=True)
    y = torch.einsum("bhqk,bkhw->bqhw", weights, v).flatten(2)
    torch.testing.assert_close(part(X, NOW), product(part, "out", y))


@torch.no_grad()
def test_the_elementwise_form_by_hand() -> None:
    # one head of width 2; phi(x) = elu(x) + 1, so 0 -> 1 and 1 -> 2
    dims = Dims(n_layer=1, n_embd=2, n_head=1, block_size=4, vocab_size=6)
    part = ElementwiseLinearConfig(alpha=1.0, learn=False).build(dims, 0)
    q = torch.tensor([[1.0, 1.0], [2.0, 1.0]])[None, :, None]
    k = torch.tensor([[1.0, 2.0], [2.0, 2.0]])[None, :, None]
    v = torch.tensor([[3.0, 5.0], [7.0, 11.0]])[None, :, None]
    got = part.read(q, k, v, at(torch.zeros(1, 2, dtype=torch.long)))[0, :, 0]  # type: ignore[operator]
    # first: (3, 10) / (1 + 2); second: (2 * (3 + 14), 1 * (10 + 22)) / (2 * 3 + 1 * 4)
    assert got[0].tolist() == pytest.approx([1.0, 10 / 3])
    assert got[1].tolist() == pytest.approx([3.4, 3.2])


def test_the_elementwise_form_starts_at_the_published_alpha() -> None:
    part = built(ElementwiseLinearConfig)
    assert part.get_parameter("phi.alpha").item() == pytest.approx(1 / 2)  # 1 / sqrt(4)


@torch.no_grad()
def test_mla_is_attention_on_what_the_latent_becomes() -> None:
    part = built(MlaConfig, latent=6, rotary=2, norm=None)
    latent, key = product(part, "down", X).split([6, 2], -1)
    k, v = (t.unflatten(-1, (3, 4)) for t in product(part, "up", latent).chunk(2, -1))
    q = product(part, "q_up", X).unflatten(-1, (3, 6))
    scores = torch.einsum("bqhw,bkhw->bhqk", q[..., :4], k)
    scores = scores + torch.einsum("bqhw,bkw->bhqk", q[..., 4:], key)  # one key for all heads
    y = torch.einsum("bhqk,bkhw->bqhw", softmax_of_the_past(scores / math.sqrt(6)), v)
    torch.testing.assert_close(part(X, NOW), product(part, "out", y.flatten(2)))


@torch.no_grad()
def test_mla_remembers_a_latent_and_a_rotary_key() -> None:
    part = built(MlaConfig, latent=6, rotary=2).float()
    now = Pass(torch.zeros(1, 1, dtype=torch.long), [], 16)
    part(torch.zeros(1, 1, 12), now)
    assert now.states is not None
    (kept,) = leaves(now.states)
    assert isinstance(kept, KV)
    assert kept.keys.shape[2:] == (1, 6)
    assert kept.values.shape[2:] == (1, 2)


def test_mla_widths_are_the_papers_unless_given() -> None:
    # DeepSeek-V2: latent 4 times a head's width, rotary half of it
    down = built(MlaConfig).get_parameter("down.weight")
    assert down.shape == (4 * 4 + 2, 12)
    assert built(MlaConfig, latent=5, rotary=4).get_parameter("down.weight").shape == (9, 12)
    with pytest.raises(ConfigError, match="turn pairs"):
        built(MlaConfig, rotary=3)


@torch.no_grad()
def test_a_scan_is_the_recurrence_it_stands_for() -> None:
    q, k, v = (torch.randn(2, TIME, 3, w, generator=DRAWN, dtype=torch.float64) for w in (4, 4, 5))
    decay = -torch.rand(2, TIME, 3, generator=DRAWN, dtype=torch.float64)
    state, want = torch.zeros(2, 3, 4, 5, dtype=torch.float64), []
    for t in range(TIME):
        state = decay[:, t, :, None, None].exp() * state
        state = state + k[:, t, :, :, None] * v[:, t, :, None]
        want.append(torch.einsum("bhn,bhnp->bhp", q[:, t], state))
    torch.testing.assert_close(scan(q, k, v, decay, NOW), torch.stack(want, 1))


@torch.no_grad()
def test_a_document_that_begins_inside_a_chunk_starts_from_nothing() -> None:
    q, k, v = (torch.randn(2, TIME, 3, w, generator=DRAWN, dtype=torch.float64) for w in (4, 4, 5))
    lengths = [20, CHUNK - 20 + 3, 6]  # the second crosses into the next chunk
    positions = torch.cat([torch.arange(n) for n in lengths]).expand(2, -1)
    got = scan(q, k, v, None, Pass(positions, packed=True))
    each = zip(*(t.split(lengths, 1) for t in (q, k, v)), strict=True)
    alone = [scan(*qkv, None, at(qkv[0][..., 0, 0])) for qkv in each]
    torch.testing.assert_close(got, torch.cat(alone, 1))


def test_taps_by_hand() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])[None, :, None]
    weight = torch.tensor([[100.0, 10.0, 1.0]])
    # the token itself, 10 times the one before, 100 times the one before that
    assert taps(x, weight, None, at(x[..., 0])).flatten().tolist() == [1.0, 12.0, 123.0]


@torch.no_grad()
def test_ssm_is_a_selective_recurrence() -> None:
    part = built(SsmConfig, head_width=6, state=5, groups=2, taps=2)
    inner, heads, n = 24, 4, 5
    z, mixed, step = product(part, "into", X).split([inner, inner + 4 * n, heads], -1)
    mixed = product(part, "convolution", mixed)
    v, b, c = mixed.split([inner, 2 * n, 2 * n], -1)
    dt = torch.nn.functional.softplus(step + part.get_parameter("step"))
    v = v.unflatten(-1, (heads, 6))
    state, rows = torch.zeros(2, heads, n, 6, dtype=torch.float64), []
    for t in range(TIME):
        decay = torch.exp(-part.get_parameter("rate").exp() * dt[:, t])
        write, read = (g[:, t].unflatten(-1, (2, n)).repeat_interleave(2, 1) for g in (b, c))
        state = decay[..., None, None] * state
        state = state + write[..., None] * (dt[:, t, :, None] * v[:, t])[:, :, None]
        skip = part.get_parameter("skip")[:, None] * v[:, t]
        rows.append(torch.einsum("bhn,bhnp->bhp", read, state) + skip)
    y = torch.stack(rows, 1).flatten(2) * torch.nn.functional.silu(z)
    torch.testing.assert_close(part(X, NOW), product(part, "out", product(part, "norm", y)))


def test_ssm_heads_start_within_the_published_ranges() -> None:
    part = built(SsmConfig, head_width=2)
    rate, step = (part.get_parameter(name) for name in ("rate", "step"))
    assert rate.exp().min() >= 1.0
    assert rate.exp().max() <= 16.0
    dt = torch.nn.functional.softplus(step)
    assert dt.min() > 0.0009
    assert dt.max() < 0.101


def test_what_ssm_remembers_does_not_grow() -> None:
    part = built(SsmConfig, head_width=6, state=5).float()
    now = Pass(torch.zeros(1, 1, dtype=torch.long), [], 1_000_000)
    with torch.no_grad():
        part(torch.zeros(1, 1, 12), now)
    assert now.states is not None
    tail, carry = leaves(now.states)
    assert isinstance(tail, Tail)
    assert isinstance(carry, Carry)
    assert tail.last.shape == (1, 3, 24 + 2 * 5)
    assert carry.value.shape == (1, 4, 5, 6)


def test_ssm_refuses_heads_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"head_width=7 must divide .*=24"):
        built(SsmConfig, head_width=7)


def test_identity_is_x() -> None:
    assert torch.equal(built(IdentityConfig)(X, NOW), X)
