"""Batches of text and images: what rows see together is what each sees alone."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from espalier.config import decode
from espalier.errors import ConfigError
from espalier.nn.front.deep_encoder import DeepEncoderConfig
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.nn.state import Image, at
from espalier.train import setup
from espalier.train.objective import MicroBatch
from espalier.train.settings import TrainConfig
from espalier.train.steps import Batch, Stepper
from tests.train import together

SHAPE = {
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 16,
    "block_size": 48,
    "vocab_size": 50,
    "front": {"name": "deep_encoder", **DeepEncoderConfig.small},
}
TIME = 48


def model(**more: object) -> GPT:
    return make(decode(GPTConfig, {**SHAPE, **more}), 1)


def stepper(net: GPT, rows: int = 4, **train: object) -> Stepper:
    return setup.stepper(net, decode(GPTConfig, SHAPE), decode(TrainConfig, train), rows, "cpu")


def square(seed: int, side: int) -> Tensor:
    return torch.rand((3, side, side), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def row(length: int, *features: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """Inputs, targets, slots and positions: images first, then words, of which the last answer."""
    seen = sum(features)
    ids = [49] * seen + [(7 * length + 3 * i) % 48 for i in range(length)]
    spare = TIME - len(ids)
    targets = [-1] * (len(ids) - 4) + ids[-3:] + [5]
    slots = [*range(seen), *[-1] * length]
    return (
        ids + [0] * spare,
        targets + [-1] * spare,
        slots + [-1] * spare,
        [*range(len(ids)), *[-1] * spare],
    )


def mixed() -> Batch:
    """Text alone, one image, two of different sizes, and one with tiles."""
    small, large = (square(1, 128), None), (square(2, 256), None)
    tiles = torch.stack([square(3, 128), square(4, 128)])[None]
    rows = [row(9), row(12, 7), row(8, 7, 21), row(10, 7 + 2 * (2 * 2 + 1))]
    columns = [torch.tensor(column) for column in zip(*rows, strict=True)]
    ids, targets, slots, positions = columns
    images: tuple[tuple[Image, ...], ...] = (
        (),
        (small,),
        (small, large),
        ((square(5, 128), tiles),),
    )
    return Batch(ids, targets, 4, None, images, slots, positions)


def loss(found: Stepper, batch: Batch) -> Tensor:
    return found.backward(batch.inputs, batch.targets, source=batch.source, sight=batch.sight)


def alone(batch: Batch, i: int) -> Batch:
    here = slice(i, i + 1)
    assert batch.slots is not None
    assert batch.positions is not None
    slots, positions = batch.slots[here], batch.positions[here]
    return Batch(
        batch.inputs[here], batch.targets[here], 1, None, batch.images[here], slots, positions
    )


def whole_of(batch: Batch) -> MicroBatch:
    return MicroBatch(batch.inputs, batch.targets, sight=batch.sight)


def test_a_mixed_batch_loses_what_its_samples_lose_alone() -> None:
    batch, total = mixed(), stepper(model().double()).objective
    whole = total(whole_of(batch), 1, 1)
    ones = [alone(batch, i) for i in range(4)]
    parts = [total(whole_of(one), 1, 1) for one in ones]
    torch.testing.assert_close(whole, torch.stack(parts).sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_gradients_are_the_same_however_a_mixed_batch_is_cut(rows: int) -> None:
    whole, cut = model().double(), model().double()
    loss(stepper(whole, 4), mixed())
    loss(stepper(cut, rows), mixed())
    for (name, a), b in zip(whole.named_parameters(), cut.parameters(), strict=True):
        if a.grad is None:
            assert b.grad is None, name
        else:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-15, msg=name)


def test_a_model_that_learns_sees_its_images() -> None:
    """Two rows of equal text differ in nothing but their images."""
    found, batch = stepper(model()), mixed()
    halves = torch.ones(3, 128, 128)
    halves[:, :64] = -1
    batch = batch._replace(
        inputs=batch.inputs[[1, 1]],
        targets=torch.stack([batch.targets[1], batch.targets[1].clamp(max=3)]),
        images=(((halves, None),), ((halves.flip(1), None),)),
        slots=batch.slots[[1, 1]] if batch.slots is not None else None,
        positions=batch.positions[[1, 1]] if batch.positions is not None else None,
    )
    for _ in range(100):
        update = found(batch.inputs, batch.targets, 1e-2, None, batch.sight)
    assert update.loss < 0.05


def test_the_head_is_asked_for_supervised_positions_alone() -> None:
    net, batch, asked = model(), mixed(), []
    net.head.register_forward_hook(lambda part, args, out: asked.append(args[0].shape[:-1]))
    loss(stepper(net), batch)
    assert asked == [(16,)]


def test_where_most_is_learnt_the_head_sees_all_of_it() -> None:
    net, asked = model(), []
    net.head.register_forward_hook(lambda part, args, out: asked.append(args[0].shape[:-1]))
    ids = torch.arange(2 * TIME).reshape(2, TIME) % 50
    stepper(net).backward(ids, ids)
    assert asked == [(2, TIME)]


def test_few_targets_are_scored_as_if_all_positions_were() -> None:
    ids = torch.arange(4 * TIME).reshape(4, TIME) % 50
    targets = torch.full_like(ids, -1)
    targets[:, -5:] = 3
    total = stepper(model().double()).objective
    few = (targets >= 0).flatten().nonzero()[:, 0]
    found = total(MicroBatch(ids, targets, few=few), 20, 20)
    whole = total(MicroBatch(ids, targets), 20, 20)
    torch.testing.assert_close(found, whole, rtol=1e-12, atol=0)


def test_padding_is_no_token_that_was_read() -> None:
    batch = mixed()
    update = stepper(model())(batch.inputs, batch.targets, 1e-3, None, batch.sight)
    assert update.tokens == 9 + (7 + 12) + (28 + 8) + (17 + 10)


def test_a_model_that_reads_no_images_says_so() -> None:
    batch = mixed()
    with pytest.raises(ConfigError, match=r"the model reads none: set model\.front"):
        loss(stepper(model(front=None)), batch)


@pytest.mark.parametrize("side", [64, 128, 192, 256])
def test_a_front_counts_the_features_it_gives(side: int) -> None:
    front = model().trunk.front
    assert front is not None
    tiles = torch.zeros(2, 3, 3, 128, 128)
    for image in ((square(1, side), None), (square(1, side), tiles)):
        assert front.count(image) == len(front([image], at(torch.zeros(1, 1).long())))


def test_a_rank_without_an_image_has_the_gradients_of_one_process(tmp_path: Path) -> None:
    ranks = together.launch(2, "-m", "tests.train.sighted", str(tmp_path))
    said = [rank.communicate(timeout=together.TIMEOUT) for rank in ranks]
    assert all(rank.returncode == 0 for rank in ranks), said
    found = json.loads((tmp_path / "sighted.json").read_text("utf-8"))
    assert found["worst"] < 1e-12
    assert found["tensors"] > 50
