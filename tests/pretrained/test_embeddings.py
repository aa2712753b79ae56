"""Tables out and in, and random projections that keep distances."""

from pathlib import Path

import numpy as np
import pytest
import torch

from espalier.config import decode
from espalier.errors import UserError
from espalier.nn.gpt import GPTConfig, make
from espalier.pretrained import fill
from espalier.pretrained.embeddings import (
    Projection,
    dimension,
    distances,
    factorise,
    load_table,
    projection,
    save_table,
)

KINDS: list[Projection] = ["gaussian", "sign", "sparse", "srht", "qr"]
CONFIG = decode(
    GPTConfig, {"n_layer": 1, "n_embd": 32, "n_head": 2, "block_size": 8, "vocab_size": 40}
)


def test_the_bound_is_the_published_one() -> None:
    assert dimension(1000, 0.5) == 332  # 4 ln 1000 / (1/8 - 1/24) = 331.6


@pytest.mark.parametrize("kind", KINDS)
def test_distances_of_a_table_stay_within_the_bound(kind: Projection) -> None:
    points, error = 200, 0.5
    table = torch.randn(points, 1024, generator=torch.Generator().manual_seed(1))
    narrow = dimension(points, error)
    assert narrow == 255
    thin = table @ projection(kind, 1024, narrow, seed=0).T
    ratio = (torch.pdist(thin) / torch.pdist(table)).square()
    assert 1 - error < ratio.min()
    assert ratio.max() < 1 + error
    assert ratio.mean().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_directions_as_columns_lose_nothing_where_they_are_orthogonal(
    kind: Projection,
) -> None:
    r = projection(kind, 32, 32, seed=0)
    exact = kind in ("srht", "qr")
    assert torch.allclose(r.T @ r, torch.eye(32), atol=1e-5) == exact


def test_a_projected_checkpoint_is_a_factorised_model() -> None:
    model = make(CONFIG, 0)
    weights, config = factorise(model.state_dict(), CONFIG, "qr", 32)
    ids = torch.randint(40, (2, 8))
    torch.testing.assert_close(fill(config, weights)(ids), model.eval()(ids), atol=1e-5, rtol=1e-4)
    weights, config = factorise(model.state_dict(), CONFIG, "sign", 8)
    assert fill(config, weights).get_parameter("trunk.embed.weight").shape == (40, 8)


def test_what_is_no_plain_table_is_not_projected() -> None:
    config = decode(GPTConfig, {"embed": "bigram"})
    with pytest.raises(UserError, match=r"model\.embed is bigram"):
        factorise({}, config, "qr", 8)
    with pytest.raises(UserError, match="from 32 to 33 columns"):
        factorise(make(CONFIG, 0).state_dict(), CONFIG, "qr", 33)


def test_a_table_goes_out_and_comes_back(tmp_path: Path) -> None:
    one, other = make(CONFIG, 0).state_dict(), make(CONFIG, 1).state_dict()
    save_table(one, tmp_path / "table.npy")
    assert np.load(tmp_path / "table.npy").shape == (40, 32)
    back = load_table(other, tmp_path / "table.npy")
    assert torch.equal(back["trunk.embed.weight"], one["trunk.embed.weight"])
    assert back.keys() == other.keys()


def test_a_table_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "table.npy"
    np.save(file, np.zeros((40, 31), np.float32))
    with pytest.raises(UserError, match=r"float32 \[40, 31\]; the model's table is \[40, 32\]"):
        load_table(make(CONFIG, 0).state_dict(), file)
    np.save(file, np.full((40, 32), np.nan, np.float32))
    with pytest.raises(UserError, match="NaN"):
        load_table(make(CONFIG, 0).state_dict(), file)
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="no table"):
        load_table(make(CONFIG, 0).state_dict(), file)


def test_singular_vectors_are_the_nearest_of_their_width() -> None:
    weights = make(CONFIG, 0).state_dict()
    table = weights["trunk.embed.weight"]
    changed, _ = factorise(weights, CONFIG, "svd", 8)
    lost = (changed["trunk.embed.weight"] @ changed["trunk.embed.up"].T - table).square().sum()
    left = torch.linalg.svdvals(table)[8:].square().sum()  # Eckart and Young
    torch.testing.assert_close(lost, left, rtol=1e-4, atol=0)


def test_distances_are_told_of_pairs_that_differ() -> None:
    table = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    thin = torch.tensor([[0.0], [0.0], [5.0], [2.0]])
    least, mean, most = distances(table, thin)  # 25/25 twice, 4/1 twice, 9/18
    assert (least, mean, most) == pytest.approx((0.5, (1 + 1 + 4 + 4 + 0.5) / 5, 4.0))
