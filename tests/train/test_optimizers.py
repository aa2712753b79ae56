"""Our optimizers give torch's numbers, keep their state, and skip when told."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from espalier.config import names, resolve
from espalier.errors import UserError
from espalier.nn.slots import Role
from espalier.train.optimizer.adamw import AdamWConfig
from espalier.train.optimizer.muon import MuonConfig, orthogonalise
from espalier.train.rule import Rule
from espalier.train.slots import Named, Optimizer, OptimizerConfig

SHAPES: dict[str, tuple[tuple[int, ...], Role]] = {
    "up": ((8, 4), "matrix"),
    "down": ((4, 8), "matrix"),
    "down2": ((4, 8), "matrix"),
    "table": ((5, 4), "embedding"),
    "gain": ((4,), "vector"),
}
ONE, GO, SKIP = torch.tensor(1.0), torch.tensor(0.0), torch.tensor(1.0)


def parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    chance = torch.Generator().manual_seed(seed)
    return {
        name: nn.Parameter(torch.randn(shape, generator=chance))
        for name, (shape, _) in SHAPES.items()
    }


def named(found: dict[str, nn.Parameter]) -> list[Named]:
    return [Named(name, tensor, SHAPES[name][1]) for name, tensor in found.items()]


def train(found: dict[str, nn.Parameter], step: Callable[[], None], steps: range) -> None:
    """The same gradients for the same step numbers."""
    for i in steps:
        chance = torch.Generator().manual_seed(100 + i)
        for tensor in found.values():
            tensor.grad = torch.randn(tensor.shape, generator=chance)
        step()


def build(name: str) -> tuple[dict[str, nn.Parameter], Optimizer]:
    found = parameters()
    return found, resolve(OptimizerConfig, name)().build(named(found), 0.1)


def test_adamw_gives_torchs_numbers() -> None:
    ours, theirs = parameters(), parameters()
    mine = AdamWConfig(beta2=0.99).build(named(ours), 0.1)
    decayed = [t for name, t in theirs.items() if SHAPES[name][1] == "matrix"]
    rest = [t for name, t in theirs.items() if SHAPES[name][1] != "matrix"]
    reference = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=0.01,
        betas=(0.9, 0.99),
    )
    train(ours, lambda: mine.step(0.01, ONE, GO), range(10))
    train(theirs, lambda: (reference.step(), None)[1], range(10))
    for name in SHAPES:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-7)
    state = reference.state[theirs["up"]]
    torch.testing.assert_close(mine.state()["up.exp_avg_sq"], state["exp_avg_sq"])
    assert mine.state()["up.step"] == 10


def test_embeddings_decay_when_nanogpts_habit_is_asked_for() -> None:
    found = parameters()
    before = found["table"].detach().clone()
    optimizer = AdamWConfig(decay=("matrix", "embedding")).build(named(found), 0.5)
    train(
        found,
        lambda: (
            [t.grad.zero_() for t in found.values() if t.grad is not None]
            and optimizer.step(0.1, ONE, GO)
        ),
        range(1),
    )
    torch.testing.assert_close(found["table"].detach(), before * (1 - 0.1 * 0.5))


@pytest.mark.parametrize("scale", ["original", "match_rms"])
def test_muon_gives_torchs_numbers_on_matrices(scale: str) -> None:
    ours, theirs = parameters(), parameters()
    mine = MuonConfig(scale=scale).build(named(ours), 0.1)
    matrices = [t for name, t in theirs.items() if SHAPES[name][1] == "matrix"]
    adjust = "match_rms_adamw" if scale == "match_rms" else "original"
    reference = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, adjust_lr_fn=adjust)
    train(ours, lambda: mine.step(0.02, ONE, GO), range(5))
    train(theirs, lambda: (reference.step(), None)[1], range(5))
    for name in ("up", "down", "down2"):  # bf16 inside: products may be added in another order
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=2e-3)


def test_muon_moves_the_rest_as_adamw_at_its_share_of_the_learning_rate() -> None:
    ours, theirs = parameters(), parameters()
    mine = MuonConfig(rest=0.5).build(named(ours), 0.1)
    reference = AdamWConfig().build(named(theirs), 0.1)
    train(ours, lambda: mine.step(0.02, ONE, GO), range(3))
    train(theirs, lambda: reference.step(0.01, ONE, GO), range(3))
    for name in ("table", "gain"):
        torch.testing.assert_close(ours[name], theirs[name])


def test_orthogonalising_brings_singular_values_near_one() -> None:
    chance = torch.Generator().manual_seed(0)
    found = orthogonalise(torch.randn(3, 16, 32, generator=chance), 5).float()
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.5
    assert values.max() < 1.4


@pytest.mark.parametrize("name", names(OptimizerConfig))
def test_a_step_divides_by_the_scale_and_does_nothing_when_skipped(name: str) -> None:
    plain, one = build(name)
    scaled, other = build(name)
    train(plain, lambda: one.step(0.01, ONE, GO), range(3))

    def step() -> None:
        for tensor in scaled.values():
            assert tensor.grad is not None
            tensor.grad.mul_(8)
        other.step(0.01, torch.tensor(8.0), GO)

    train(scaled, step, range(3))
    for key in SHAPES:
        torch.testing.assert_close(plain[key], scaled[key])
    before = {key: value.clone() for key, value in (*plain.items(), *one.state().items())}

    def poison() -> None:
        for tensor in plain.values():
            assert tensor.grad is not None
            tensor.grad.fill_(float("nan"))
        one.step(0.01, ONE, SKIP)

    train(plain, poison, range(3, 4))
    for key, value in (*plain.items(), *one.state().items()):
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_muon_skips_without_asking_the_host() -> None:
    """The way taken on a GPU: NaN and all, a step that is to be skipped changes nothing."""
    found, same = parameters(), parameters()
    weight, other = named(found), named(same)
    awaited, unasked = (MuonConfig().build(given, 0.1) for given in (weight, other))
    one = torch.ones(())

    def fill(value: float) -> None:
        for p in (*found.values(), *same.values()):
            p.grad = torch.full_like(p, value) + torch.arange(p.numel()).view_as(p) % 7

    with torch.no_grad():
        for value in (0.1, 0.3):
            fill(value)
            awaited._matrices(0.02, one, None)
            unasked._matrices(0.02, one, one - 1)
        for a, b in zip(found.values(), same.values(), strict=True):
            assert torch.equal(a, b)
        before = [p.clone() for p in same.values()], [m.clone() for m in unasked.momenta]
        fill(float("nan"))
        unasked._matrices(0.02, one * float("nan"), one)
    assert all(map(torch.equal, same.values(), before[0]))
    assert all(map(torch.equal, unasked.momenta, before[1]))


@pytest.mark.parametrize("name", names(OptimizerConfig))
def test_the_state_carries_over_bit_for_bit(name: str) -> None:
    whole, one = build(name)
    train(whole, lambda: one.step(0.01, ONE, GO), range(6))
    parted, first = build(name)
    train(parted, lambda: first.step(0.01, ONE, GO), range(3))
    kept = {key: value.clone() for key, value in first.state().items()}
    second = resolve(OptimizerConfig, name)().build(named(parted), 0.1)
    second.load(kept)
    train(parted, lambda: second.step(0.01, ONE, GO), range(3, 6))
    for key in SHAPES:
        assert torch.equal(whole[key], parted[key])


@pytest.mark.parametrize("name", names(OptimizerConfig))
def test_a_parameter_without_gradient_stays(name: str) -> None:
    found, optimizer = build(name)
    before = found["down"].detach().clone()

    def step() -> None:
        found["down"].grad = None
        optimizer.step(0.01, ONE, GO)

    train(found, step, range(2))
    assert torch.equal(found["down"].detach(), before)


@pytest.mark.parametrize("name", names(OptimizerConfig))
def test_every_optimizer_comes_down_a_quadratic(name: str) -> None:
    found, optimizer = build(name)

    def height() -> float:
        return float(sum(tensor.detach().square().sum() for tensor in found.values()))

    start = height()
    for _ in range(100):
        for tensor in found.values():
            tensor.grad = tensor.detach().clone()
        if optimizer.curious():
            optimizer.observe(ONE, 1)
        optimizer.step(0.01, ONE, GO)
    assert height() < 0.9 * start


@pytest.mark.parametrize("name", names(OptimizerConfig))
def test_weight_decay_means_the_same_everywhere(name: str) -> None:
    """Without a gradient to follow, matrices shrink by learning rate times decay, others stay."""
    found, optimizer = build(name)
    before = {key: tensor.detach().clone() for key, tensor in found.items()}
    for _ in range(2):
        for tensor in found.values():
            tensor.grad = torch.zeros_like(tensor)
        optimizer.step(0.5, ONE, GO)
    for key, (_, role) in SHAPES.items():
        left = (1 - 0.5 * 0.1) ** 2 if role == "matrix" else 1.0
        torch.testing.assert_close(found[key].detach(), left * before[key])


RULES = [name for name in names(OptimizerConfig) if isinstance(build(name)[1], Rule)]


@pytest.mark.parametrize("name", RULES)
def test_a_rule_skips_without_asking_the_host(name: str) -> None:
    """The way taken on a GPU gives the same numbers, and none where it is to be skipped."""
    found, one = build(name)
    same, other = build(name)
    assert isinstance(one, Rule)
    assert isinstance(other, Rule)
    with torch.no_grad():
        train(found, lambda: one._move(0.01, ONE, None), range(3))
        train(same, lambda: other._move(0.01, ONE, GO), range(3))
        for key in SHAPES:
            assert torch.equal(found[key], same[key])
        before = {key: t.clone() for key, t in (*same.items(), *other.state().items())}

        def poison() -> None:
            for tensor in same.values():
                tensor.grad = torch.full_like(tensor, float("nan"))
            other._move(0.01, ONE, SKIP)

        train(same, poison, range(3, 4))
    for key, value in (*same.items(), *other.state().items()):
        assert key == "called" or torch.equal(value, before[key])


def test_a_state_that_does_not_fit_is_refused_with_the_nearest_name() -> None:
    _, optimizer = build("adamw")
    state: dict[str, Tensor] = dict(optimizer.state())
    state["_orig_mod.up.exp_avg"] = state.pop("up.exp_avg")
    with pytest.raises(UserError, match=r"it has no 'up.exp_avg'. Did you mean '_orig_mod.up"):
        optimizer.load(state)


def test_muon_takes_a_fused_projection_as_the_matrices_it_holds() -> None:
    whole = torch.randn(8, 4)
    grad = torch.randn(8, 4)
    fused = Named("qkv", nn.Parameter(whole.clone()), "matrix", (4, 2, 2))
    pieces = [
        Named(f"m{i}", nn.Parameter(rows.clone()), "matrix")
        for i, rows in enumerate(whole.split([4, 2, 2]))
    ]
    fused.tensor.grad = grad.clone()
    for piece, rows in zip(pieces, grad.split([4, 2, 2]), strict=True):
        piece.tensor.grad = rows.clone()
    for members in ([fused], pieces):
        MuonConfig().build(members, 0.1).step(0.1, ONE, GO)
    torch.testing.assert_close(fused.tensor, torch.cat([piece.tensor for piece in pieces]))
    assert not torch.equal(fused.tensor, whole)


def test_three_polar_express_steps_lift_small_singular_values_further_than_three_quintic() -> None:
    steep = torch.diag(torch.logspace(0, -3, 16)) @ torch.eye(16, 64)
    least = {
        name: torch.linalg.svdvals(orthogonalise(steep[None], 3, name).float()).min()
        for name in ("quintic", "polar_express")
    }
    assert least["polar_express"] > 2 * least["quintic"]
