"""Attention by plain operations, where torch's fused one is slow: bf16 training on a CPU."""

import pytest
import torch
from torch.nn import functional as F

from espalier.config import decode, encode
from espalier.native import attention, composed
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.nn.state import at
from espalier.tree import merge

IDS = torch.randint(50, (3, 40), generator=torch.Generator().manual_seed(1))
KINDS = {"whole": {}, "window": {"window": 5}, "grouped": {"n_kv_head": 2}}


def model(kind: str, position: str) -> GPT:
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 64, "vocab_size": 50}
    tree = {**sizes, "block": {"attention": KINDS[kind]}, "position": position}
    return make(decode(GPTConfig, merge(encode(GPTConfig()), tree)), seed=0)


def gradient(net: GPT) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(net(IDS, at(IDS))[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    net.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", ["learned", "alibi"])
def test_plain_operations_give_the_gradients_of_the_fused_one(
    kind: str, position: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "ready", False)
    net = model(kind, position)
    plain = gradient(net)
    monkeypatch.setattr(composed, "serves", lambda q, dropout: False)
    fused = gradient(net)
    assert not torch.equal(plain, fused)  # another way was taken
    assert (plain - fused).norm() < 0.02 * fused.norm()


def test_the_formula_by_hand() -> None:
    # q k = 2 / sqrt(4) = 1 for both keys, the second one a log 3 heavier: weights 1/4 and 3/4
    q = torch.full((1, 1, 1, 4), 0.5)
    k, v = torch.ones(1, 1, 2, 4), torch.tensor([0.0, 4.0])[:, None].expand(1, 1, 2, 4)
    bias = torch.tensor([1.0, 3.0]).log()
    out = composed.attend(q, k, v, bias, 0.0)
    torch.testing.assert_close(out, torch.full((1, 1, 1, 4), 3.0))


@pytest.mark.parametrize(
    ("time", "dropout", "dtype", "yes"),
    [
        (512, 0.0, torch.bfloat16, True),
        (513, 0.0, torch.bfloat16, False),
        (513, 0.1, torch.bfloat16, True),
        (64, 0.1, torch.float32, False),
    ],
)
def test_only_short_windows_and_dropout_in_bf16_go_that_way(
    time: int, dropout: float, dtype: torch.dtype, yes: bool
) -> None:
    q = torch.empty(1, 1, time, 8, dtype=dtype, requires_grad=True)
    assert composed.serves(q, dropout) is yes
    assert not composed.serves(q.detach(), dropout)


def test_dropout_leaves_the_mean_as_it_was() -> None:
    torch.manual_seed(0)
    q = torch.zeros(1, 1, 1, 8, dtype=torch.bfloat16)
    k = torch.zeros(1, 1, 4000, 8, dtype=torch.bfloat16)
    out = composed.attend(q, k, torch.ones_like(k), q.new_zeros(()), 0.25)
    torch.testing.assert_close(out.float(), torch.ones(1, 1, 1, 8), atol=0.05, rtol=0)
