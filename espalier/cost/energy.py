"""Energy that a token takes, from operations and bytes at published prices.

For 45 nm and 0.9 V (M. Horowitz, Computing's energy problem, ISSCC 2014): 3.7 pJ to multiply and
0.9 pJ to add two fp32 numbers; 64 bits from DRAM 1.3 to 2.6 nJ, of which the lower is taken. It
ranks designs; no chip is claimed to need just so much.
"""

from dataclasses import dataclass

from torch import nn

from espalier.cost import count
from espalier.nn.slots import Part, unused


@dataclass(frozen=True)
class Format:
    """How numbers are written, and what a multiplication and its addition cost: joules, um^2."""

    bits: int
    multiply: float
    add: float
    multiply_area: float
    add_area: float

    @property
    def product(self) -> float:
        """Joules of a multiplication and its addition."""
        return self.multiply + self.add

    @property
    def area(self) -> float:
        """Square micrometres of the circuits for both."""
        return self.multiply_area + self.add_area


# Horowitz's table, areas at the same 45 nm; products of int8 are added up in int32
FORMATS = {
    "fp32": Format(32, 3.7e-12, 0.9e-12, 7700, 4184),
    "fp16": Format(16, 1.1e-12, 0.4e-12, 1640, 1360),
    "int8": Format(8, 0.2e-12, 0.1e-12, 282, 137),
}
BYTE = 1.3e-9 / 8  # joules, from DRAM


@dataclass(frozen=True)
class Energy:
    """Joules for one token of generation: its arithmetic, and reading each weight once."""

    arithmetic: float
    weights: float

    @property
    def total(self) -> float:
        return self.arithmetic + self.weights


def per_token(model: nn.Module, window: int) -> Energy:
    """Of a model on the meta device, for one token of a full window.

    In fp32, but that weights which a part rounds are read in as few bits as it needs.
    """
    products = count.flops(model, window).forward / 2  # each a multiplication and an addition
    named, idle, few = dict(model.named_parameters()), set(unused(model)), stored(model)
    bits = sum(
        named[name].numel() * few.get(name, FORMATS["fp32"].bits)
        for name in count.multiplied(model)
        if name not in idle
    )
    return Energy(arithmetic=products * FORMATS["fp32"].product, weights=bits / 8 * BYTE)


def stored(model: nn.Module) -> dict[str, float]:
    """Bits that inference needs of each number, by parameter name, where a part rounds it."""
    return {
        f"{path}.{name}" if path else name: bits
        for path, part in model.named_modules()
        if isinstance(part, Part)
        for name, bits in part.stored.items()
    }
