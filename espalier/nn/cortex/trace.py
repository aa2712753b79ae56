"""What a branch has lately seen, fading, added to what it sees: BioGPT's NMDA trace, made causal.

Published was a state of whole chunks that no pass ever used: the last token's output of one call,
added to every value of the next. This one runs token by token, so that it does not matter how a
text is cut: m_t = tau m_(t-1) + (1 - tau) v_t, and attention sees v_t + tau m_(t-1).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.nn.slots import Part
from espalier.nn.state import Carry, Pass

START, SPREAD = 0.9, 0.1  # of the raw decay, as published; tau = sigmoid(0.9) = 0.71


class Trace(Part):
    def __init__(self, width: int):
        super().__init__()
        self.decay = nn.Parameter(torch.empty(width))

    def reset(self) -> None:
        nn.init.normal_(self.decay, START, SPREAD)

    def forward(self, v: Float[Tensor, "batch time width"], now: Pass) -> Tensor:
        tau = torch.sigmoid(self.decay)
        new = (1 - tau) * v.to(torch.promote_types(v.dtype, torch.float32))
        state = now.state(Carry.empty, v, v.shape[-1])
        before = torch.zeros_like(new[:, 0]) if state is None else state.value
        trace = fade(torch.cat([before[:, None].to(new.dtype), new], 1), tau, now)
        if state is not None:  # behind the last token that is one
            last = (now.positions >= 0).sum(1)
            state.value.copy_(trace[torch.arange(len(v), device=v.device), last])
        seen = tau * trace[:, :-1]
        if now.packed:
            seen = seen * (now.positions > 0)[..., None]
        return v + seen.to(v.dtype)


def fade(x: Float[Tensor, "batch n width"], tau: Tensor, now: Pass) -> Tensor:
    """y_t = tau y_(t-1) + x_t in log2(n) steps, each of which doubles how far back y sees.

    x_0 stands before the tokens. Packed, y_t sees only its own document.
    """
    reach, power = 1, tau
    while reach < x.shape[1]:
        past = power * F.pad(x, (0, 0, reach, 0))[:, :-reach]
        if now.packed:
            past = past * (F.pad(now.positions, (1, 0)) >= reach)[..., None]
        x = x + past
        reach, power = 2 * reach, power * power
    return x
