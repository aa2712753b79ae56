"""The methods, by hand on matrices small enough to work out."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from espalier.compress.cut import cut, patterned
from espalier.compress.inputs import Watch, products, squares
from espalier.compress.prunable import prunable
from espalier.compress.prune.sparsegpt import SparsegptConfig
from espalier.compress.prune.structured import Ledger, Offer, StructuredConfig, cheapest
from espalier.compress.shrink import Where
from espalier.compress.slots import Job, Pattern, PruneConfig, Scope
from espalier.config import decode, encode, names, resolve
from espalier.errors import UserError
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.nn.slots import unused
from espalier.nn.units import Place, spaced

TINY = GPTConfig(n_layer=2, n_embd=8, n_head=2, block_size=8, vocab_size=11)
TEXT = torch.randint(11, (6, 8), generator=torch.Generator().manual_seed(5))


def job(share: float, scope: Scope = "global", pattern: Pattern | None = None) -> Job:
    return Job(share, scope, TEXT, pattern)


def gone(masks: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: (~keep).flatten().nonzero().flatten().tolist() for name, keep in masks.items()}


def test_units_go_where_an_activation_keeps_fixed_numbers_of_them() -> None:
    fixed = {"name": "oscillating", "learned": False}
    block = {"name": "prenorm", "ffn": {"name": "mlp", "activation": fixed}}
    config = decode(GPTConfig, {**encode(TINY), "block": block})
    found = StructuredConfig().prune(make(config, seed=0), config, job(0.5))
    assert found.removed["hidden"] > 0


def test_magnitude_takes_exactly_k_and_the_first_of_equals() -> None:
    scores = {"a": torch.tensor([[3.0, 1.0, 1.0]]), "b": torch.tensor([[1.0, 2.0], [1.0, 0.5]])}
    # seven weights, int(.43 * 7) = 3 go: the .5, then two of the four ones, in the model's order
    assert gone(cut(scores, job(0.43))) == {"a": [1, 2], "b": [3]}
    # each matrix alone: int(.5 * 3) = 1 and int(.5 * 4) = 2
    assert gone(cut(scores, job(0.5, "layer"))) == {"a": [1], "b": [0, 3]}
    # each row alone
    assert gone(cut(scores, job(0.5, "row"))) == {"a": [1], "b": [0, 3]}
    assert gone(cut(scores, job(0.0))) == {"a": [], "b": []}


def test_a_pattern_keeps_the_highest_of_each_group() -> None:
    scores = torch.tensor([[4.0, 1.0, 3.0, 2.0, 5.0, 5.0, 5.0, 6.0]])
    mask = patterned(scores, Pattern(2, 4), "w")
    assert mask.nonzero()[:, 1].tolist() == [1, 3, 4, 5]
    with pytest.raises(UserError, match="no multiple of 3"):
        patterned(scores, Pattern(1, 3), "w")


def test_wanda_by_hand() -> None:
    """Inputs (3, 0, 1) and (4, 1, 1): their norms are 5, 1 and sqrt 2."""
    weight = torch.nn.Parameter(torch.tensor([[1.0, -4.0, 2.0], [-1.0, 6.0, 3.0]]))
    with Watch({"w": weight}, squares) as seen, torch.no_grad():
        F.linear(torch.tensor([[3.0, 0.0, 1.0], [4.0, 1.0, 1.0]]), weight)
    norm = seen.found["w"].sqrt()
    torch.testing.assert_close(norm, torch.tensor([[5.0, 1.0, 2**0.5]]))
    scores = {"w": weight.detach().abs() * norm}  # 5 4 2.83; 5 6 4.24
    assert gone(cut(scores, job(0.34, "row"))) == {"w": [2, 5]}
    assert gone(cut(scores, job(0.5))) == {"w": [1, 2, 5]}


def brute_force(weight: np.ndarray, h: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Optimal brain surgeon column by column, each inverse made anew, in fp64."""
    w = weight.copy()
    for row, column in itertools.product(range(w.shape[0]), range(w.shape[1])):
        if not keep[row, column]:
            inverse = np.linalg.inv(h[column:, column:])
            w[row, column:] -= w[row, column] / inverse[0, 0] * inverse[0]
            w[row, column] = 0
    return w


@pytest.mark.parametrize("block", [2, 128])
def test_sparsegpt_is_optimal_brain_surgery(block: int) -> None:
    noise = torch.Generator().manual_seed(3)
    x = torch.randn(40, 7, generator=noise, dtype=torch.float64) @ torch.randn(
        7, 7, generator=noise, dtype=torch.float64
    )
    w = torch.randn(5, 7, generator=noise, dtype=torch.float64)
    h = x.T @ x
    config, pruned = SparsegptConfig(block=block), w.clone()
    keep = config.matrix(pruned, h, job(0.5, "layer"))
    damped = (h + 0.01 * h.diagonal().mean() * torch.eye(7, dtype=torch.float64)).numpy()
    expected = brute_force(w.numpy(), damped, keep.numpy())
    np.testing.assert_allclose(pruned.numpy(), expected, atol=1e-9)
    assert int((~keep).sum()) == int(0.5 * 35)


def test_sparsegpt_gives_nearer_outputs_than_magnitude() -> None:
    noise = torch.Generator().manual_seed(3)
    x = torch.randn(256, 8, generator=noise) @ torch.randn(8, 32, generator=noise)
    x += 0.3 * torch.randn(256, 32, generator=noise)
    w = torch.randn(16, 32, generator=noise)
    pruned = w.clone()
    SparsegptConfig().matrix(pruned, x.T @ x, job(0.5, "layer"))
    plain = w * cut({"w": w.abs()}, job(0.5, "layer"))["w"]
    ours, theirs = ((x @ (w - other).T).square().sum() for other in (pruned, plain))
    assert ours < 0.5 * theirs


def test_a_convolution_is_seen_by_its_windows() -> None:
    """Outputs are the weight's rows times the windows that were seen, group by group."""
    noise = torch.Generator().manual_seed(1)
    weight = torch.randn(4, 2, 3, generator=noise)
    x = torch.randn(2, 4, 5, generator=noise)
    seen: list[Tensor] = []
    with Watch({"w": weight}, lambda inputs: (seen.append(inputs), products(inputs))[1]):
        y = F.conv1d(x, weight, padding=2, groups=2)
    rows = weight.view(2, 2, 6)
    again = seen[0] @ rows.mT  # (group, batch * time, out)
    expected = y.permute(0, 2, 1).reshape(-1, 2, 2).transpose(0, 1)
    torch.testing.assert_close(again, expected)


def test_units_go_by_worth_per_weight_until_the_budget_is_spent() -> None:
    """Three features of a (3, 10) and b (4, 3); they hold 10 + 4 weights each."""
    weights = {"a": torch.ones(3, 10), "b": torch.ones(4, 3), "other": torch.ones(58)}
    where = Where(0, "ffn", "hidden")
    places = spaced(Place("a", 0, 0, 1), Place("b", 1, 0, 1), Place("bias", 0, 0, 1))
    offers = [Offer(where, [3.0, 1.0, 2.0], places)]
    assert cheapest(offers, weights, 0.13, whole=True) == {}
    assert cheapest(offers, weights, 0.14, whole=True) == {where: [1]}
    assert cheapest(offers, weights, 0.28, whole=True) == {where: [1, 2]}
    assert cheapest(offers, weights, 0.99, whole=True) == {where: [1, 2]}  # one stays
    assert cheapest(offers, weights, 0.34, whole=False) == {where: [1]}


def test_what_two_units_share_goes_once() -> None:
    """Row and column j of a square: the first takes 7 of 16, the second 5."""
    ledger = Ledger({"w": torch.ones(4, 4)})
    unit = spaced(Place("w", 0, 0, 1), Place("w", 1, 0, 1))
    assert ledger.cost(unit(2)) == 7
    ledger.take(unit(2))
    assert ledger.cost(unit(2)) == 0
    assert ledger.cost(unit(0)) == 5


def test_what_lies_inside_a_unit_that_goes_is_not_counted_twice() -> None:
    weights = {"w": torch.ones(6, 10)}
    neuron = Where(0, "", "neuron")
    branch = Where(0, "", "branch", ("neuron", 0))
    offers = [
        Offer(branch, [1.0, 5.0], spaced(Place("w", 0, 0, 1))),
        Offer(neuron, [60.0, 900.0], spaced(Place("w", 0, 0, 3))),
    ]
    # the branch (.1 a weight) goes first, then its neuron (2) for the 20 weights that are left
    assert cheapest(offers, weights, 0.5, whole=True) == {neuron: [0]}
    assert cheapest(offers, weights, 0.49, whole=True) == {branch: [0]}


def methods() -> list[str]:
    return names(PruneConfig)


def pruned_by(name: str, share: float, scope: Scope | None = None) -> tuple[GPT, GPT]:
    config = resolve(PruneConfig, name)()
    assert isinstance(config, PruneConfig)
    model = make(TINY, 1)
    found = config.prune(model, TINY, job(share, scope or config.scopes[0]))
    return make(TINY, 1), found.model


@pytest.mark.parametrize("name", methods())
def test_every_method_takes_as_much_as_was_asked(name: str) -> None:
    before, after = pruned_by(name, 0.5)
    whole = sum(w.numel() for w in prunable(before).values())
    left = sum(int(w.count_nonzero()) for w in prunable(after).values())
    assert left == whole // 2


@pytest.mark.parametrize("name", methods())
def test_every_method_takes_the_same_twice(name: str) -> None:
    first, second = pruned_by(name, 0.3)[1], pruned_by(name, 0.3)[1]
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", methods())
def test_only_matrices_of_the_stack_are_touched(name: str) -> None:
    before, after = pruned_by(name, 0.5)
    inside, now = prunable(before), dict(after.named_parameters())
    for path, p in before.named_parameters():
        if path not in inside and p.shape == now[path].shape:
            assert torch.equal(p, now[path]), path


def test_the_rule_reads_roles_not_names() -> None:
    found = prunable(make(TINY, 1))
    assert {name.rpartition(".blocks.")[2] for name in found} == {
        f"{i}.{part}.weight"
        for i in range(2)
        for part in ("attention.qkv", "attention.out", "ffn.up", "ffn.down")
    }
    with pytest.raises(UserError, match="shares the embedding"):
        prunable(make(TINY, 1), {"head"})
    assert len(prunable(make(TINY, 1), {"embedding"})) == len(found) + 1


def test_what_no_pass_reads_is_no_sparsity_for_nothing() -> None:
    block = {"name": "cortical", "neurons": [2], "compat": "published"}
    config = decode(GPTConfig, {**encode(TINY), "block": block})
    model = make(config, 1)
    idle = unused(model)
    assert idle
    assert not set(idle) & set(prunable(model))
