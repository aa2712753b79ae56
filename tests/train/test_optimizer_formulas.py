"""Optimizers against the numbers that their papers' formulas give, in float64."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from espalier.config import decode, resolve
from espalier.errors import ConfigError
from espalier.nn.slots import Role
from espalier.train.objective import drawn
from espalier.train.optimizer.ademamix import AdEMAMix, AdEMAMixConfig
from espalier.train.optimizer.bridge import BridgeConfig
from espalier.train.slots import Named, Optimizer, OptimizerConfig

ONE, GO = torch.tensor(1.0), torch.tensor(0.0)
GRADS = [0.5, -0.2, 0.1, 0.4]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def make(
    name: str, start: Tensor, role: Role = "matrix", decay: float = 0.0, **fields: Any
) -> tuple[nn.Parameter, Optimizer]:
    parameter = nn.Parameter(start.double().clone())
    config = decode(resolve(OptimizerConfig, name), fields)
    return parameter, config.build([Named("w", parameter, role)], decay)


def walk(parameter: nn.Parameter, step: Callable[[], Any], grads: list[Tensor]) -> list[Tensor]:
    """The parameter after each gradient."""
    found = []
    for grad in grads:
        parameter.grad = grad.double().clone()
        step()
        found.append(parameter.detach().clone())
    return found


def path(name: str, grads: list[float], lr: float, decay: float = 0.0, **f: Any) -> list[float]:
    """A single number, from 1."""
    parameter, optimizer = make(name, torch.ones(1, 1), decay=decay, **f)
    steps = [torch.full((1, 1), grad) for grad in grads]
    return [float(x) for x in walk(parameter, lambda: optimizer.step(lr, ONE, GO), steps)]


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_gives_torchs_numbers(nesterov: bool) -> None:
    start = torch.randn(3, 2)
    grads = [torch.randn(3, 2) for _ in range(5)]
    ours, mine = make("sgd", start, nesterov=nesterov)
    theirs = nn.Parameter(start.double().clone())
    reference = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, nesterov=nesterov)
    found = walk(ours, lambda: mine.step(0.1, ONE, GO), grads)
    torch.testing.assert_close(found, walk(theirs, reference.step, grads))


def test_sgds_decay_stays_out_of_the_momentum() -> None:
    # 1 - .1 (.5 + .2 1) = .93; momentum .9 .5 - .2 = .25; .93 - .1 (.25 + .2 .93) = .8864
    assert path("sgd", [0.5, -0.2], 0.1, 0.2) == pytest.approx([0.93, 0.8864])


def test_lion_follows_the_sign_of_what_it_remembers() -> None:
    # m = .01 2 = .02; then .9 .02 + .1 (-.1) = .008 > 0, though the gradient is negative
    assert path("lion", [2.0, -0.1], 0.1) == pytest.approx([0.9, 0.8])
    assert path("lion", [2.0, -0.2], 0.1) == pytest.approx([0.9, 1.0])


def test_adams_divides_by_its_former_momentum() -> None:
    first = 0.1 * 0.5 / math.sqrt(0.05 * 0.25)
    mean = 0.9 * 0.05 - 0.1 * 0.2
    second = mean / math.sqrt(0.95 * 0.05**2 + 0.05 * 0.04)
    expected = [1 - 0.1 * first, 1 - 0.1 * (first + second)]
    assert path("adams", [0.5, -0.2], 0.1, eps=1e-30) == pytest.approx(expected)


def test_ademamix_is_its_formula() -> None:
    b1, b2, b3, alpha, growth, lr = 0.9, 0.999, 0.9999, 5.0, 3, 0.01
    fast = slow = second = 0.0
    x, expected = 1.0, []
    for t, grad in enumerate(GRADS, 1):
        share = min(1.0, t / growth)
        rate = math.log(b1) * math.log(b3)
        rate = math.exp(rate / ((1 - share) * math.log(b3) + share * math.log(b1)))
        fast = b1 * fast + (1 - b1) * grad
        slow = rate * slow + (1 - rate) * grad
        second = b2 * second + (1 - b2) * grad**2
        size = math.sqrt(second / (1 - b2**t)) + 1e-8
        x -= lr * ((fast / (1 - b1**t) + alpha * share * slow) / size + 0.1 * x)
        expected.append(x)
    assert path("ademamix", GRADS, lr, 0.1, growth=growth) == pytest.approx(expected, rel=1e-5)


def test_ademamix_lengthens_its_memory_in_a_straight_line() -> None:
    optimizer = AdEMAMix(AdEMAMixConfig(growth=100), [], 0.0)
    alpha, beta = optimizer._grown(torch.tensor(50.0, dtype=torch.float64))
    assert float(alpha) == 2.5
    assert 1 / math.log(float(beta)) == pytest.approx(
        (1 / math.log(0.9) + 1 / math.log(0.9999)) / 2
    )
    assert AdEMAMixConfig().within(700).growth == 700
    assert AdEMAMixConfig(growth=5).within(700).growth == 5


@pytest.mark.parametrize("shape", [(4, 3), (5,)])
def test_adafactor_gives_torchs_numbers(shape: tuple[int, ...]) -> None:
    start = torch.randn(shape)
    grads = [torch.randn(shape) for _ in range(5)]
    ours, mine = make("adafactor", start)
    theirs = nn.Parameter(start.double().clone())
    reference = torch.optim.Adafactor([theirs], lr=0.05, weight_decay=0.0)
    found = walk(ours, lambda: mine.step(0.05, ONE, GO), grads)
    torch.testing.assert_close(found, walk(theirs, reference.step, grads), rtol=1e-6, atol=1e-8)


def test_adafactor_remembers_rows_and_columns() -> None:
    _, optimizer = make("adafactor", torch.ones(4, 3))
    assert {k: tuple(v.shape) for k, v in optimizer.state().items()} == {
        "w.step": (),
        "w.rows": (4,),
        "w.columns": (3,),
    }


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_normuon_brings_every_neuron_to_one_size_of_step(shape: tuple[int, int]) -> None:
    parameter, optimizer = make("normuon", torch.zeros(shape))
    grad = torch.randn(shape) * torch.arange(1.0, shape[0] + 1)[:, None]
    (after,) = walk(parameter, lambda: optimizer.step(0.1, ONE, GO), [grad])
    rows = after.square().mean(1).sqrt()
    torch.testing.assert_close(rows, torch.full_like(rows, 0.2 * 0.1), rtol=1e-5, atol=0)


def test_soap_is_adam_in_the_eigenbasis() -> None:
    """Gradients U diag(s) V^T of one U and V: Adam on s, from the second gradient on."""
    chance = torch.Generator().manual_seed(1)
    u, v = (torch.linalg.qr(torch.randn(3, 3, generator=chance).double())[0] for _ in range(2))
    sizes = [torch.tensor(s) for s in ([3.0, 2.0, 1.0], [2.0, -1.0, 0.5], [1.0, 2.0, 0.3])]
    parameter, optimizer = make("soap", torch.zeros(3, 3), every=1)
    found = walk(
        parameter,
        lambda: optimizer.step(0.1, ONE, GO),
        [u @ s.double().diag() @ v.mT for s in sizes],
    )
    assert not found[0].any()
    inner = nn.Parameter(torch.zeros(3).double())
    reference = torch.optim.Adam([inner], lr=0.1, betas=(0.95, 0.95))
    expected = walk(inner, reference.step, sizes[1:])
    for ours, theirs in zip(found[1:], expected, strict=True):
        torch.testing.assert_close(u.mT @ ours @ v, theirs.diag(), rtol=1e-5, atol=1e-6)


def test_soap_is_adamw_where_no_side_is_turned() -> None:
    start, grads = torch.randn(3, 2), [torch.randn(3, 2) for _ in range(4)]
    ours, mine = make("soap", start, largest=1)
    theirs = nn.Parameter(start.double().clone())
    reference = torch.optim.AdamW([theirs], lr=0.1, betas=(0.95, 0.95), weight_decay=0.0)
    found = walk(ours, lambda: mine.step(0.1, ONE, GO), grads)
    torch.testing.assert_close(found, walk(theirs, reference.step, grads), rtol=1e-5, atol=1e-7)


def test_sophia_clips_momentum_over_curvature() -> None:
    parameter, optimizer = make("sophia_g", torch.ones(1, 2), gamma=0.5)
    assert optimizer.curious()
    parameter.grad = torch.tensor([[2.0, 0.1]]).double() * 8
    optimizer.observe(torch.tensor(8.0), 100)  # h = .01 100 g^2 = 4, .01
    parameter.grad = torch.tensor([[20.0, 20.0]]).double()
    optimizer.step(0.1, ONE, GO)  # m = .7: .7 / (.5 4) = .35, and .7 / .005 is clipped
    torch.testing.assert_close(
        parameter.detach(), torch.tensor([[1 - 0.035, 0.9]]).double(), rtol=1e-5, atol=0
    )
    assert not any(optimizer.curious() for _ in range(9))
    assert optimizer.curious()


def test_drawn_targets_estimate_the_gauss_newton_diagonal() -> None:
    """For logits that are themselves the parameters: p (1 - p)."""
    torch.manual_seed(0)
    logits = nn.Parameter(torch.tensor([1.0, 0.0, -1.0, 0.5]))
    rows, draws = 20, 2000
    targets = torch.tensor([0] * rows + [-1] * 5)
    total = torch.zeros(4)
    for _ in range(draws):
        (grad,) = torch.autograd.grad(drawn(logits.expand(len(targets), -1), targets), logits)
        total += rows * (grad / rows).square()
    p = logits.detach().softmax(-1)
    torch.testing.assert_close(total / draws, p * (1 - p), rtol=0.15, atol=0)


def test_lookahead_meets_its_slow_weights_halfway() -> None:
    # SGD by .1 a step: 1 .9 .8, then 1 + (.8 - 1) / 2 = .9
    inner = {"name": "sgd", "momentum": 0.0}
    found = path("lookahead", [1.0] * 4, 0.1, inner=inner, every=2)
    assert found == pytest.approx([0.9, 0.9, 0.8, 0.8])


def test_a_bridged_optimizer_is_torchs_with_our_decay() -> None:
    start, grads = torch.randn(3, 2), [torch.randn(3, 2) for _ in range(7)]
    ours, mine = make("bridge", start, decay=0.1, kind="nadam", options={"betas": (0.8, 0.9)})
    theirs = nn.Parameter(start.double().clone())
    reference = torch.optim.NAdam([theirs], lr=0.01, betas=(0.8, 0.9))

    def step() -> None:
        with torch.no_grad():
            theirs.mul_(1 - 0.01 * 0.1)
        reference.step()

    torch.testing.assert_close(
        walk(ours, lambda: mine.step(0.01, ONE, GO), grads), walk(theirs, step, grads)
    )


@pytest.mark.parametrize("kind", ["AdaBelief", "Lamb", "Prodigy", "Yogi"])
def test_a_librarys_optimizer_resumes_bit_for_bit(kind: str) -> None:
    pytest.importorskip("pytorch_optimizer", reason="the extra espalier[optim]")
    _resumes("bridge", {"library": "pytorch_optimizer", "kind": kind})


def test_lookahead_resumes_also_what_has_a_state_only_once_it_has_stepped() -> None:
    _resumes("lookahead", {"inner": {"name": "bridge", "kind": "radam"}, "every": 2})


def _resumes(name: str, fields: dict[str, Any]) -> None:
    """Three steps, and three more from what was kept, are six."""
    grads = [torch.randn(3, 2) for _ in range(6)]
    whole, one = make(name, torch.ones(3, 2), **fields)
    expected = walk(whole, lambda: one.step(0.01, ONE, GO), grads)[-1]
    parted, first = make(name, torch.ones(3, 2), **fields)
    middle = walk(parted, lambda: first.step(0.01, ONE, GO), grads[:3])[-1]
    kept = {key: value.clone() for key, value in first.state().items()}
    again, second = make(name, middle, **fields)
    second.load(kept)
    assert torch.equal(walk(again, lambda: second.step(0.01, ONE, GO), grads[3:])[-1], expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "radm"}, "torch has no optimizer named 'radm'. Did you mean 'radam'"),
        ({"kind": "lbfgs"}, "lbfgs cannot make a plain step"),
        ({"kind": "radam", "options": {"lr": 1.0}}, "options.lr is ruled by train"),
        ({"kind": "radam", "options": {"beta": 1.0}}, "takes no such argument. Did you mean 'bet"),
    ],
)
def test_what_cannot_be_bridged_is_refused_at_once(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decode(BridgeConfig, fields).build([], 0.0)


def test_only_sophia_asks_for_a_second_gradient() -> None:
    _, inner = make("sophia_g", torch.ones(1))
    _, outer = make("lookahead", torch.ones(1), inner="sophia_g")
    _, plain = make("sgd", torch.ones(1))
    assert (inner.curious(), outer.curious(), plain.curious()) == (True, True, False)
