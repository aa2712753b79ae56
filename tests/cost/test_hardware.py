"""What a circuit does for a model, against counts worked by hand."""

from typing import Any

import pytest

from espalier.config import decode
from espalier.cost import energy, hardware
from espalier.cost.energy import FORMATS
from espalier.nn.gpt import GPT, GPTConfig, sketch
from espalier.nn.score.strongermax import StrongermaxConfig
from espalier.nn.slots import Dims

WINDOW, WIDTH, HEADS, VOCAB = 8, 16, 2, 65
LAYER = WIDTH * 3 * WIDTH + WIDTH * WIDTH + 2 * WIDTH * 4 * WIDTH  # qkv, out, up, down
INT8, FP32 = FORMATS["int8"], FORMATS["fp32"]


def model(**block: Any) -> GPT:
    sizes = {"n_layer": 2, "n_embd": WIDTH, "n_head": HEADS, "block_size": WINDOW}
    return sketch(
        decode(GPTConfig, {**sizes, "vocab_size": VOCAB, "block": {"name": "prenorm", **block}})
    ).eval()


def test_a_token_multiplies_with_every_weight_once_and_with_all_that_is_remembered() -> None:
    found = hardware.token(model(), WINDOW, INT8)
    scores = 2 * WIDTH * WINDOW  # q k^T, and weights times values
    assert found.all.multiplications == 2 * (LAYER + scores) + VOCAB * WIDTH
    assert found.remembered == 2 * 2 * WINDOW * WIDTH  # keys and values of two layers
    vectors = 2 * WIDTH  # the token's row of its table, and its position's
    read = 2 * LAYER + VOCAB * WIDTH + vectors
    assert found.all.weights == 8 * read
    joules = found.all.multiplications * 0.3e-12 + (read + found.remembered) * 1.3e-9 / 8
    assert found.energy(INT8) == pytest.approx(joules)


def test_a_prompt_multiplies_for_each_token_attention_as_the_full_square() -> None:
    found = hardware.prompt(model(), WINDOW, INT8)
    one = hardware.token(model(), WINDOW, INT8)
    assert found.all.multiplications == WINDOW * one.all.multiplications


def test_softmax_looks_at_every_score_thrice_and_consmax_needs_no_maximum_and_no_sum() -> None:
    place, scores = "stack.blocks.*.attention.score", 2 * HEADS * WINDOW
    found = hardware.token(model(), WINDOW, INT8).places[place]
    assert found.special == {"max": scores, "exp": scores, "divide": scores}
    found = hardware.token(
        model(attention={"name": "causal", "score": "consmax"}), WINDOW, INT8
    ).places[place]
    assert found.special == {"exp": scores}


def test_a_norm_takes_one_root_a_row_and_a_softcap_one_tanh_a_score() -> None:
    found = hardware.token(
        model(attention={"name": "causal", "softcap": 30.0}), WINDOW, INT8
    ).places
    assert found["stack.blocks.*.norm_1"].special == {"sqrt": 2, "divide": 2}
    assert found["stack.blocks.*.attention"].special == {"tanh": 2 * HEADS * WINDOW}
    assert found["stack.blocks.*.ffn.activation"].special == {"erf": 2 * 4 * WIDTH}


def test_few_heads_of_keys_and_a_window_are_less_to_remember() -> None:
    built = model(attention={"name": "causal", "n_kv_head": 1, "window": 3})
    assert hardware.token(built, WINDOW, INT8).remembered == 2 * 2 * 3 * (WIDTH // HEADS)


@pytest.mark.parametrize(
    ("linear", "bits"),
    [
        ("dense", 32),
        ("bitnet", 1.6),  # five of three values in a byte
        ({"name": "fake_quantised", "weights": {"bits": 4}}, 4),
        ({"name": "fake_quantised", "level": 0.5}, 32),  # half way is not yet an integer
    ],
)
def test_rounded_weights_are_read_in_the_bits_that_they_need(linear: Any, bits: float) -> None:
    built = model(
        attention={"name": "causal", "linear": linear}, ffn={"name": "mlp", "linear": linear}
    )
    vectors, head = 2 * WIDTH * 32, VOCAB * WIDTH * 32
    found = hardware.token(built, WINDOW, FP32)
    assert found.all.weights == pytest.approx(2 * LAYER * bits + head + vectors)
    joules = (2 * LAYER * bits + head) / 8 * 1.3e-9 / 8
    assert energy.per_token(built, WINDOW).weights == pytest.approx(joules)


def test_of_many_experts_a_token_reads_the_best_alone() -> None:
    places = hardware.token(model(ffn={"name": "moe", "experts": 8, "top": 2}), WINDOW, FP32).places
    experts = 2 * 2 * (2 * WIDTH * 2 * WIDTH) * 32  # two layers, two experts of half the width
    assert places["stack.blocks.*.ffn"].weights == pytest.approx(experts, rel=1e-3)
    assert places["stack.blocks.*.ffn.router"].special["exp"] == 2 * 8


def test_a_tile_of_a_systolic_array_takes_its_depth_and_its_diagonal() -> None:
    product = (1, 20, 10, 33)  # (20, 10) times (10, 33): 2 by 3 tiles of 16, 10 + 30 cycles each
    assert hardware.cycles([product], 16, 16) == 6 * 40
    assert hardware.busy([product], 16, 16) == pytest.approx(20 * 10 * 33 / (6 * 40 * 256))


@pytest.mark.parametrize(
    ("fields", "special", "passes"),
    [
        ({}, {"max": 1, "exp": 1, "divide": 1}, 3),
        ({"shift": "guess"}, {"exp": 1, "divide": 1}, 2),
        ({"shift": "none", "denominator": False}, {"exp": 1}, 1),
        ({"denominator": False, "clamp": 10.0}, {"max": 1, "compare": 1, "exp": 1}, 2),
    ],
)
def test_strongermax_costs_what_its_settings_leave_of_softmax(
    fields: dict[str, Any], special: dict[str, float], passes: int
) -> None:
    part = decode(StrongermaxConfig, fields).build(Dims(1, WIDTH, HEADS, WINDOW, VOCAB), 0)
    assert (dict(part.special), part.passes) == (special, passes)
