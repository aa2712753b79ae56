"""What training on images costs, counted by hand."""

import pytest
import torch

from espalier.config import decode
from espalier.cost import vision
from espalier.nn.front.deep_encoder import DeepEncoderConfig
from espalier.nn.gpt import GPTConfig, sketch
from espalier.train.meter import Utilisation
from espalier.train.mirrors import nanochats

SHAPE = {
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 16,
    "block_size": 8,
    "vocab_size": 11,
    "front": {"name": "deep_encoder", **DeepEncoderConfig.small},
}
SAM = "trunk.front.sam_model.*"


def shape() -> GPTConfig:
    return decode(GPTConfig, SHAPE)


def by_hand() -> int:
    """Forward, 128 pixels: multiplications twice, layer by layer."""
    grid, width, neck, between, clip = 64, 48, 32, 48, 64
    patches = grid * 3 * 16 * 16 * width
    dense = grid * width * (3 * width + width + 8 * width)
    places = 2 * 3 * grid * 8 * 16  # queries times tables, down and across
    padded = 81  # windows of 3 x 3 on 8 x 8
    wide = padded * width * 4 * width + grid * width * 8 * width
    windowed = 9 * 2 * 3 * 9 * 9 * 16 + 9 * 2 * 3 * 9 * 3 * 16
    whole = 2 * 3 * grid * grid * 16 + places
    necks = grid * width * neck + grid * 9 * neck * neck
    squeeze = 16 * 9 * neck * between + 4 * 9 * between * clip
    clips = 2 * (5 * clip * (3 * clip + clip + 8 * clip)) + 2 * (2 * 4 * 5 * 5 * 16)
    project = 4 * 2 * clip * 16
    return 2 * (patches + dense + wide + windowed + whole + necks + squeeze + clips + project)


def test_a_square_costs_what_its_layers_multiply() -> None:
    front = sketch(shape()).trunk.front
    assert front is not None
    assert vision.square(front, 128).forward == by_hand()


def test_what_is_frozen_costs_its_forward_alone() -> None:
    meter, frozen = Utilisation(shape(), "fp32", "cpu"), Utilisation(shape(), "fp32", "cpu", [SAM])
    text, whole, less = meter.work(10), meter.work(10, {128: 2}), frozen.work(10, {128: 2})
    assert text is not None
    assert whole is not None
    assert less is not None
    assert text < less < whole
    front = sketch(shape()).trunk.front
    assert front is not None
    assert whole == text + 2 * vision.square(front, 128).train


def test_boards_get_nanochats_names_too() -> None:
    ours = {"train/tokens_per_s": 5.0, "train/ms": 250.0, "train/loss": 1.0, "eval/val_loss": 2.0}
    found = {"train/tok_per_sec": 5.0, "train/dt": 0.25}
    assert nanochats(ours) == found | {"val/loss": 2.0}


def test_counting_leaves_no_gradient() -> None:
    front = sketch(shape()).trunk.front
    assert front is not None
    vision.square(front, 128)
    assert all(p.grad is None for p in front.parameters())


@pytest.mark.parametrize("side", [128, 192])
def test_a_larger_square_costs_more(side: int) -> None:
    front = sketch(shape()).trunk.front
    assert front is not None
    with torch.no_grad():
        assert vision.square(front, side + 64).forward > vision.square(front, side).forward
