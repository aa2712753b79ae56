"""What `parts` says that a part costs, beside what is counted."""

import pytest

from espalier.cost.parts import facts


@pytest.mark.parametrize(
    ("slot", "name", "special", "passes"),
    [
        ("score", "softmax", {"max": 1, "exp": 1, "divide": 1}, 3),
        ("score", "consmax", {"exp": 1}, 1),
        ("norm", "rms", {"sqrt": 0, "divide": 0}, 2),  # one for a row
        # tanh in each branch, a sigmoid for the gate and one for how far it rises
        ("ffn", "wiggle", {"tanh": 1, "exp": 2, "divide": 2}, 1),
        ("ffn", "glu", {}, 1),  # its silu is told in activation
        ("block", "prenorm", {}, 1),
    ],
)
def test_a_parts_own_functions_are_told_and_other_slots_are_not(
    slot: str, name: str, special: dict[str, float], passes: int
) -> None:
    found = facts(slot, name)
    assert (found.special, found.passes) == (special, passes)
