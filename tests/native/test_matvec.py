"""The decoding products against float64, for every kind of weight, and what rows owe each other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from espalier.native import build, matvec

pytestmark = pytest.mark.skipif(not build.prepare(matvec), reason=f"no kernel: {build.why_not()}")
KINDS = (torch.float32, torch.bfloat16, torch.int8)


def unpack(packed: matvec.Packed) -> Tensor:
    """The weights that the packed ones stand for, in float64."""
    weights = packed.weights[:, : packed.n_in].double()
    return weights if packed.scale is None else weights * packed.scale.double()[:, None]


def drawn(rows: int, n_out: int, n_in: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(rows + n_out + n_in)
    return (
        torch.randn(rows, n_in, generator=draw),
        torch.randn(n_out, n_in, generator=draw),
        torch.randn(n_out, generator=draw),
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 37), st.integers(1, 70), st.integers(1, 200), st.sampled_from(KINDS))
def test_any_shape_equals_the_formula(rows: int, n_out: int, n_in: int, kind: torch.dtype) -> None:
    x, weight, bias = drawn(rows, n_out, n_in)
    packed = matvec.pack(weight, bias, kind)
    want = x.double() @ unpack(packed).T + bias.double()
    # int8: x has 16 bits beside its row's largest value
    error = 1e-5 if kind != torch.int8 else 2e-4
    torch.testing.assert_close(
        matvec.Linear(packed)(x).double(), want, atol=error * n_in**0.5, rtol=1e-5
    )


def test_weights_are_rounded_as_said() -> None:
    weight = torch.tensor([[1.0, -0.5, 0.003], [0.0, 0.0, 0.0]])
    bf16, int8 = (matvec.pack(weight, None, kind) for kind in (torch.bfloat16, torch.int8))
    assert bf16.weights.shape == int8.weights.shape == (2, 64)
    assert bf16.weights[0, :3].tolist() == [1.0, -0.5, weight[0, 2].bfloat16().item()]
    assert int8.weights[:, :3].tolist() == [[127, -64, 0], [0, 0, 0]]  # -63.5 to even
    assert int8.scale is not None
    assert int8.scale[0].item() == pytest.approx(1 / 127)
    assert int8.sums is not None
    assert int8.sums.tolist() == [63, 0]


def test_a_product_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0]])
    weight = torch.tensor([[127.0, 0.0, -127.0], [1.0, 1.0, 1.0]])
    for kind in KINDS:
        packed = matvec.pack(weight, torch.tensor([0.5, -1.0]), kind)
        want = torch.tensor([[-253.5, 5.0]])
        torch.testing.assert_close(matvec.Linear(packed)(x), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_to_the_last_bit_whatever_stands_beside_it(kind: torch.dtype) -> None:
    x, weight, bias = drawn(23, 50, 130)
    product = matvec.Linear(matvec.pack(weight, bias, kind))
    alone = torch.cat([product(x[i : i + 1]) for i in range(len(x))])
    for rows in range(1, len(x) + 1):
        assert torch.equal(product(x[:rows]), alone[:rows])


@pytest.mark.parametrize("kind", KINDS)
def test_one_thread_and_two_give_the_same_bits(kind: torch.dtype) -> None:
    x, weight, _ = drawn(3, 99, 64)
    product, found = matvec.Linear(matvec.pack(weight, None, kind)), []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(product(x))
    torch.set_num_threads(before)
    assert torch.equal(*found)


def test_leading_dimensions_and_strides_are_kept() -> None:
    x, weight, _ = drawn(6, 10, 64)
    product = matvec.Linear(matvec.pack(weight, None, torch.float32))
    wide = torch.cat([x, x], 1).reshape(2, 3, 128)[..., :64]
    assert torch.equal(product(wide), product(x).reshape(2, 3, 10))
    assert product(x[:0]).shape == (0, 10)


def test_zeros_and_large_values_stay_finite_in_int8() -> None:
    product = matvec.Linear(matvec.pack(torch.ones(4, 100), None, torch.int8))
    assert torch.equal(product(torch.zeros(1, 100)), torch.zeros(1, 4))
    big = product(torch.full((1, 100), 1e30))
    torch.testing.assert_close(big, torch.full((1, 4), 1e32))
    assert product(torch.full((1, 100), float("nan"))).isnan().all()
    with pytest.raises(ValueError, match="70000 inputs, more than 65536"):
        matvec.pack(torch.zeros(1, 70000), None, torch.int8)


def test_fp32_weights_of_fitting_width_are_shared_and_others_padded() -> None:
    weight = torch.randn(5, 64)
    assert matvec.pack(weight, None, torch.float32).weights.data_ptr() == weight.data_ptr()
    assert matvec.pack(weight[:, :63], None, torch.float32).weights.shape == (5, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_table_are_looked_up(kind: torch.dtype) -> None:
    packed = matvec.pack(torch.randn(9, 30), None, kind)
    ids = torch.tensor([[3, 3], [0, 8]])
    torch.testing.assert_close(packed.rows(ids).double(), unpack(packed)[ids])


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_lawful_operator_that_gives_the_same(kind: torch.dtype) -> None:
    x, weight, bias = drawn(3, 10, 40)
    packed = matvec.pack(weight, bias, kind)
    given = (x, packed.weights, packed.scale, packed.sums, packed.bias)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.espalier.matvec.default, given, test_utils=checks)
    assert torch.equal(torch.ops.espalier.matvec(*given), matvec.Linear(packed)(x))


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_kernel_torch_does_the_work(
    monkeypatch: pytest.MonkeyPatch, kind: torch.dtype
) -> None:
    x, weight, bias = drawn(5, 20, 64)
    product = matvec.Linear(matvec.pack(weight, bias, kind))
    fast = product(x)
    monkeypatch.setattr(matvec, "ready", False)
    torch.testing.assert_close(product(x), fast, atol=2e-3, rtol=1e-4)
