"""Energy that a token takes, from operations and bytes at published prices.

For 45 nm and 0.9 V (M. Horowitz, Computing's energy problem, ISSCC 2014): 3.7 pJ to multiply and
0.9 pJ to add two fp32 numbers; 64 bits from DRAM 1.3 to 2.6 nJ, of which the lower is taken. It
ranks designs; no chip is claimed to need just so much.
"""

from dataclasses import dataclass

from torch import nn

from espalier.cost import count

MULTIPLY, ADD = 3.7e-12, 0.9e-12  # joules, fp32
BYTE = 1.3e-9 / 8  # joules, from DRAM
FP32 = 4


@dataclass(frozen=True)
class Energy:
    """Joules for one token of generation: its arithmetic, and reading each weight once."""

    arithmetic: float
    weights: float

    @property
    def total(self) -> float:
        return self.arithmetic + self.weights


def per_token(model: nn.Module, window: int) -> Energy:
    """Of a model on the meta device, for one token of a full window; everything in fp32."""
    products = count.flops(model, window).forward / 2  # each a multiplication and an addition
    return Energy(
        arithmetic=products * (MULTIPLY + ADD),
        weights=count.parameters(model).products * FP32 * BYTE,
    )
