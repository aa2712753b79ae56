"""Counts against published figures and against the closed form."""

import pytest

from espalier.cost.count import flops, memory, parameters
from espalier.errors import ConfigError
from espalier.experiment import load
from espalier.nn.gpt import sketch
from espalier.train import tuning


@pytest.mark.parametrize(
    ("recipe", "total"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("pythia-160m", 162_322_944),
    ],
)
def test_published_sizes_are_counted(recipe: str, total: int) -> None:
    model = sketch(load(recipe).model)
    assert all(p.is_meta for p in model.parameters())
    assert parameters(model).total == total


@pytest.mark.parametrize("recipe", ["gpt2", "gpt2-medium", "pythia-160m"])
@pytest.mark.parametrize("window", [64, 1024])
def test_training_takes_6n_and_12ltd_operations_a_token(recipe: str, window: int) -> None:
    config = load(recipe).model
    model = sketch(config)
    n = 12 * config.n_layer * config.n_embd**2 + config.vocab_size * config.n_embd
    assert parameters(model).products == n
    got = flops(model, window)
    assert got.train == 6 * n + 12 * config.n_layer * window * config.n_embd
    assert got.forward * 3 == got.train


def test_attention_keeps_no_square_of_positions() -> None:
    model = sketch(load("gpt2").model)
    short, long = memory(model, 1, 256), memory(model, 1, 1024)
    assert long.activations == pytest.approx(4 * short.activations, rel=0.01)


def test_what_is_frozen_has_neither_gradient_nor_moments() -> None:
    plan = load("deepseek-ocr-stage2")
    model = sketch(plan.model)
    tuning.freeze(model, plan.train.freeze)
    found = memory(model, 1, 512, side=512)
    assert found.weights == 4 * 962_362_880
    assert found.gradients == 4 * 866_191_616
    assert found.optimizer == 2 * found.gradients


def test_an_image_a_row_is_counted() -> None:
    model = sketch(load("deepseek-ocr-tiny", ["model.vocab_size=65"]).model)
    assert memory(model, 2, 64, side=128).activations > 1.5 * memory(model, 2, 64).activations
    with pytest.raises(ConfigError, match="takes 7 tokens, a row has 4"):
        memory(model, 2, 4, side=128)


def test_activations_grow_with_the_batch_and_weights_do_not() -> None:
    model = sketch(load("shakespeare-char-cpu", ["model.vocab_size=65"]).model)
    one, two = memory(model, 4, 64), memory(model, 8, 64)
    assert two.activations == pytest.approx(2 * one.activations, rel=0.01)
    assert two.weights == one.weights == 4 * parameters(model).total
    assert one.optimizer == 2 * one.weights
