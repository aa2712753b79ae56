"""The native squared relu against torch's two operators: equal to the last bit."""

import pytest
import torch
from torch.nn import functional as F

from espalier.native import build, relu2

pytestmark = pytest.mark.skipif(not build.prepare(relu2), reason=f"no kernel: {build.why_not()}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,), (3, 37), (2, 5, 64)])
def test_values_are_those_of_torch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert torch.equal(relu2.square(x), F.relu(x).square())


def test_values_and_gradients_by_hand() -> None:
    x = torch.tensor([-2.0, 0.0, 0.5, 3.0], requires_grad=True)
    y = relu2.square(x)
    y.backward(torch.tensor([1.0, 1.0, 2.0, 1.0]))
    assert y.tolist() == [0.0, 0.0, 0.25, 9.0]
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 0.0, 2.0, 6.0]


def test_a_transposed_input_is_read_in_its_own_order() -> None:
    x = torch.randn(6, 4).T
    assert torch.equal(relu2.square(x), F.relu(x).square())


def test_it_is_a_lawful_operator() -> None:
    x = torch.randn(3, 8, requires_grad=True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.espalier.relu2.default, (x,), test_utils=checks)
