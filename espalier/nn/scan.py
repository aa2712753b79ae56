"""A matrix that decays and grows with each token, and what queries read from it.

S_t = exp(log_decay_t) S_(t-1) + k_t v_t^T and y_t = S_t^T q_t, chunk by chunk: inside a chunk as
masked attention, from chunk to chunk through S (the duality of arXiv:2405.21060). Memory is
O(time * chunk + time / chunk * |S|), work O(time).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from espalier.nn.rows import wide
from espalier.nn.state import Carry, Pass

CHUNK = 64


def scan(
    q: Float[Tensor, "batch time heads state"],
    k: Float[Tensor, "batch time heads state"],
    v: Float[Tensor, "batch time heads width"],
    log_decay: Float[Tensor, "batch time heads"] | None,
    now: Pass,
) -> Float[Tensor, "batch time heads width"]:
    """y, in fp32 or more; goes on from this call's state, if there is one, and leaves it renewed.

    Where a token is missing (position below 0) nothing decays and nothing is added; documents
    packed in one row begin with an empty S.
    """
    carry = now.state(Carry.empty, k, *k.shape[2:], v.shape[-1])
    real = (now.positions >= 0)[..., None]
    k = wide(k) * real[..., None]
    decay = k.new_zeros(k.shape[:3]) if log_decay is None else wide(log_decay) * real
    begins = (
        (now.positions == 0) if now.packed else torch.zeros_like(now.positions, dtype=torch.bool)
    )
    total = k.new_zeros(*k.shape[:1], *k.shape[2:], v.shape[-1])
    if carry is not None:
        total = total + carry.value
    out = []
    pieces = [torch.split(t, CHUNK, 1) for t in (wide(q), k, wide(v), decay, begins)]
    for piece in zip(*pieces, strict=True):
        y, total = _chunk((piece[0], piece[1], piece[2]), piece[3], piece[4], total)
        out.append(y)
    if carry is not None:
        carry.value.copy_(total)
    return torch.cat(out, 1)


def _chunk(
    qkv: tuple[Tensor, Tensor, Tensor], decay: Tensor, begins: Tensor, total: Tensor
) -> tuple[Tensor, Tensor]:
    """The chunk's y, and S after it."""
    run = decay.cumsum(1).transpose(1, 2)  # (batch, heads, time)
    document = begins.cumsum(1)[:, None]
    t = torch.arange(begins.shape[1], device=begins.device)
    seen = (t[:, None] >= t) & (document[..., None] == document[..., None, :])
    gap = (run[..., None] - run[..., None, :]).masked_fill(~seen, float("-inf"))
    q, k, v = (part.transpose(1, 2) for part in qkv)
    inside = (q @ k.transpose(-1, -2) * gap.exp()) @ v
    before = torch.exp(run) * (document == 0)  # of S, that reaches each token
    y = inside + (q @ total) * before[..., None]
    after = torch.exp(run[..., -1:] - run) * (document == document[..., -1:])
    total = total * before[..., -1:, None] + (k * after[..., None]).transpose(-1, -2) @ v
    return y.transpose(1, 2), total


def taps(
    x: Float[Tensor, "batch time channels"],
    weight: Float[Tensor, "channels taps"],
    past: Tensor | None,
    now: Pass,
) -> Float[Tensor, "batch time channels"]:
    """A causal convolution of each channel by itself: the last tap multiplies the token itself.

    `past` is the last taps - 1 inputs and x; zeros stand before a text.
    """
    count = weight.shape[1]
    past = F.pad(x, (0, 0, count - 1, 0)) if past is None else past
    y = x * weight[:, -1]
    for back in range(1, count):
        earlier = past[:, count - 1 - back : past.shape[1] - back]
        if now.packed:
            earlier = earlier * (now.positions >= back)[..., None]
        y = y + earlier * weight[:, -1 - back]
    return y
