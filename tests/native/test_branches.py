"""The native block-diagonal maps against torch's grouped convolution in float64."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from espalier.native import branches, build
from espalier.nn.cortex.branches import BranchConv, BranchLinear
from espalier.nn.slots import Dims, reset
from espalier.nn.state import at

pytestmark = pytest.mark.skipif(
    not (build.prepare(branches) and branches.ready),
    reason=f"no kernel: {build.why_not() or 'no gain on this CPU'}",
)
# batch, time, branches, in, out, taps: shorter and longer than a piece of work, edges of panels
SHAPES = [
    (2, 7, 3, 4, 6, 1),
    (1, 300, 2, 96, 200, 1),
    (2, 130, 4, 48, 48, 5),
    (1, 64, 2, 34, 70, 3),
    (3, 129, 2, 16, 386, 1),
    (1, 2, 1, 2, 2, 5),
]


def numbers(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    batch, time, count, n_in, n_out, taps = shape
    torch.manual_seed(0)
    x = torch.randn(batch, time, count, n_in).bfloat16()
    size = (count * n_out, n_in, taps) if taps > 1 else (count * n_out, n_in)
    weight = (0.1 * torch.randn(size)).to(dtype)
    return tuple(t.requires_grad_() for t in (x, weight, torch.randn(count * n_out).to(dtype)))


def exact(x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool) -> Tensor:
    w = weight.double()
    w = w + (w.detach().bfloat16() - w).detach()  # the kernel's own digits
    w = w if w.ndim == 3 else w[..., None]
    past = F.pad(x.double().flatten(2).mT, (w.shape[2] - 1, 0))
    y = F.conv1d(past, w, None if bias is None else bias.double(), groups=x.shape[2])
    y = y.mT.unflatten(2, (x.shape[2], -1))
    return y + x.double() if residual else y


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_a_grouped_convolutions(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x, weight, bias = numbers(shape, dtype)
    residual = shape[3] == shape[4]
    y = branches.project(x, weight, bias, residual)
    grad = torch.randn(y.shape).bfloat16()
    got = (y, *torch.autograd.grad(y, (x, weight, bias), grad))
    y = exact(x, weight, bias, residual)
    want = (y, *torch.autograd.grad(y, (x, weight, bias), grad.double()))
    for mine, other, given in zip(got, want, (x, x, weight, bias), strict=True):
        assert mine.dtype == given.dtype
        # fp32 sums: a gradient of fp32 weights is exact to their rounding, a bf16 number to its own
        digits = 2**-8 if mine.dtype == torch.bfloat16 else 2**-20
        scale = float(other.detach().abs().max())
        torch.testing.assert_close(mine.double(), other.double(), atol=digits * scale, rtol=digits)


def test_what_threads_do_changes_no_bit() -> None:
    x, weight, bias = numbers((2, 150, 3, 32, 48, 1), torch.float32)

    def all_of(threads: int) -> tuple[Tensor, ...]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            y = branches.project(x, weight, bias)
            return (y, *torch.autograd.grad(y.float().square().sum(), (x, weight, bias)))
        finally:
            torch.set_num_threads(before)

    assert all(torch.equal(a, b) for a, b in zip(all_of(1), all_of(3), strict=True))


def test_strided_tokens_are_read_where_they_lie() -> None:
    x, weight, _ = numbers((2, 40, 3, 8, 6, 1), torch.float32)
    branch_first = x.detach().permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    assert branch_first.stride() != x.stride()
    got = branches.project(branch_first, weight, None)
    assert torch.equal(got, branches.project(x, weight, None))
    slices = torch.zeros(2, 40, 3, 20, dtype=torch.bfloat16)
    slices[..., 5:13] = x.detach()  # odd offsets: pairs need not lie on words
    assert torch.equal(branches.project(slices[..., 5:13], weight, None), got)


def test_odd_widths_and_other_precisions_go_through_torch() -> None:
    x, weight, _ = numbers((1, 4, 2, 6, 4, 1), torch.float32)
    assert branches.serves(x, weight)
    assert not branches.serves(x.float(), weight)
    assert not branches.serves(x[..., :5], weight)
    assert not branches.serves(x, weight[:-2])
    assert not branches.serves(x, weight.double())


def test_parts_in_autocast_use_it_and_agree_with_torch() -> None:
    dims = Dims(n_layer=1, n_embd=48, n_head=1, block_size=64, vocab_size=6, std=0.2)
    conv, up = BranchConv(3, 16, 5, dims), BranchLinear(3, 16, 32, dims)
    reset(conv, 0)
    reset(up, 1)
    a = torch.randn(2, 64, 48).bfloat16().requires_grad_()
    now = at(torch.zeros(2, 64))

    def both() -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16):
            y = up(conv(a, now), now)
        asked = (a, conv.weight, up.weight, up.get_parameter("bias"))
        return (y, *torch.autograd.grad(y.float().square().sum(), asked))

    got, used = both(), "espalier::branches" in _called(both)
    conv.fused = up.fused = False
    want = both()
    assert used
    assert "espalier::branches" not in _called(both)
    for mine, other in zip(got, want, strict=True):
        gap = (mine.float() - other.float()).norm() / other.float().norm()
        assert gap < 0.01


def _called(run: object) -> set[str]:
    assert callable(run)
    with torch.profiler.profile() as profile:
        run()
    return {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("biased", [True, False])
def test_it_is_a_lawful_operator(biased: bool) -> None:
    x, weight, bias = numbers((2, 5, 2, 4, 4, 3), torch.float32)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    given = (x, weight, bias if biased else None, True)
    torch.library.opcheck(torch.ops.espalier.branches.default, given, test_utils=checks)


def test_flops_are_counted_once_the_counter_knows_them() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    branches.count_flops()
    x, weight, bias = numbers((2, 5, 3, 4, 6, 5), torch.float32)
    with FlopCounterMode(display=False) as counter:
        branches.project(x, weight, bias).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * (2 * 5) * (3 * 4 * 6 * 5)
