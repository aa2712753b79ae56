"""A sweep file becomes valid experiments, or an error before any run."""

from pathlib import Path
from typing import Any

import pytest

from espalier.config import encode
from espalier.data.corpus import Corpus
from espalier.errors import ConfigError
from espalier.experiment import load
from espalier.run import Run
from espalier.study import plan
from espalier.study.flags import table
from espalier.study.plan import Trial
from espalier.study.size import sizes


@pytest.fixture(autouse=True)
def _any_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus of 65 symbols, wherever it is said to be."""

    class Any65:
        path, vocab_size = "data/x", 65

    monkeypatch.setattr(Corpus, "open", lambda place: Any65())


def trials(tmp_path: Path, text: str, *overrides: str) -> list[Trial]:
    file = tmp_path / "sweep.yaml"
    file.write_text(text, encoding="utf-8")
    return plan.read(file, ["data.corpus=data/x", *overrides])


OURS = """
recipe: shakespeare-char-cpu
seeds: [1, 2, 3]
set: {model.n_layer: 2}
grid:
  model.block.norm: [layer, rms]
  train.learning_rate: [1.0e-3, 3.0e-3]
"""


def test_a_grid_is_every_combination_with_every_seed(tmp_path: Path) -> None:
    found = trials(tmp_path, OURS)
    assert len(found) == 2 * 2 * 3
    assert len({trial.key for trial in found}) == 12
    assert len({trial.configuration for trial in found}) == 4
    assert {trial.experiment.model.n_layer for trial in found} == {2}
    assert [trial.seed for trial in found[:4]] == [1, 2, 3, 1]
    assert found[0].settings == {"model.block.norm": "layer", "train.learning_rate": 1e-3}


def test_identity_is_the_resolved_configuration_however_it_is_written(tmp_path: Path) -> None:
    one = trials(tmp_path, OURS)[0]
    other = "recipe: shakespeare-char-cpu\nset: {seed: 1, model.block.norm: {name: layer},"
    other += " train.learning_rate: 0.001}\n"
    assert trials(tmp_path, other, "model.n_layer=2")[0].key == one.key


def test_equal_trials_are_one(tmp_path: Path) -> None:
    text = "recipe: shakespeare-char-cpu\ngrid: {model.block.norm: [rms, {name: rms}]}"
    assert len(trials(tmp_path, text)) == 1


def test_what_differs_from_document_to_document_is_a_setting_of_its_trials(tmp_path: Path) -> None:
    head = "recipe: shakespeare-char-cpu\nset: "
    found = trials(tmp_path, f"{head}{{model.n_layer: 2}}\n---\n{head}{{model.n_layer: 3}}\n")
    assert [trial.settings for trial in found] == [{"model.n_layer": 2}, {"model.n_layer": 3}]


def test_a_part_is_chosen_before_its_fields_whatever_the_order(tmp_path: Path) -> None:
    text = "recipe: shakespeare-char-cpu\nset: {model.block.norm.eps: 1.0e-3}\n"
    found = trials(tmp_path, text + "grid: {model.block.norm: [rms]}\n")
    assert found[0].experiment.model.block.norm.name == "rms"  # type: ignore[attr-defined]
    assert found[0].experiment.model.block.norm.eps == 1e-3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recipe: shakespeare-char-cpu\ngird: {}", "sweep.yaml:2: .*gird"),
        (OURS.replace("learning_rate", "lerning_rate"), "sweep.yaml:7: .*learning_rate"),
        (OURS.replace("[layer, rms]", "[layer, rmz]"), "sweep.yaml:6: .*rmz.*Did you mean 'rms'"),
        (OURS.replace("-cpu", "-cpv"), "sweep.yaml:2: no recipe named"),
        (OURS.replace("2, 3]", "two]"), "sweep.yaml:3: seeds"),
        (OURS.replace("set: {", "set: {train.eval_only: true, "), "train.eval_only"),
    ],
)
def test_one_wrong_word_stops_before_any_run(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError if "only" not in said else ValueError, match=said):
        trials(tmp_path, text)


@pytest.mark.parametrize("override", ["train.learning_rate=1", "--learning_rate=1"])
def test_an_override_cannot_make_one_value_of_a_varied_path(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.learning_rate is varied"):
        trials(tmp_path, OURS, override)


def test_nor_can_an_override_of_the_part_whose_field_is_varied(tmp_path: Path) -> None:
    text = "recipe: shakespeare-char-cpu\ngrid: {model.block.norm.eps: [1.0e-5, 1.0e-3]}"
    with pytest.raises(ConfigError, match=r"model\.block\.norm\.eps is varied"):
        trials(tmp_path, text, "model.block.norm=rms")


def test_sizes_that_do_not_fit_each_other_are_found_before_any_run(tmp_path: Path) -> None:
    found = trials(tmp_path, "recipe: shakespeare-char-cpu\ngrid: {model.n_head: [4, 5]}")
    with pytest.raises(ConfigError, match=r"model\.n_head=5: .*must divide"):
        sizes(found)


def test_a_corpus_with_more_tokens_than_the_model_is_found_before_any_run(tmp_path: Path) -> None:
    text = "recipe: shakespeare-char-cpu\ngrid: {model.vocab_size: [65, 64]}\n"
    with pytest.raises(ConfigError, match="vocab_size=64 is smaller than the vocabulary of data/x"):
        trials(tmp_path, text)


def test_the_size_of_a_trial_is_counted(tmp_path: Path) -> None:
    (trial,) = trials(tmp_path, "recipe: shakespeare-char-cpu\nset: {train.max_iters: 10}")
    found = sizes([trial])[trial.key]
    layers, norms, tables = 4 * 12 * 128**2, 9 * 128, (65 + 64) * 128
    assert found.parameters == layers + norms + tables == 804_096  # as many as nanoGPT's
    assert found.disk == 4 * (3 * 804_096) * 3  # weights and two moments; two newest and the best


# The original's form, through its flags.

STRONGER = "softmax_variant_attn: strongermax\n"


def one(tmp_path: Path, text: str) -> Any:
    (trial,) = trials(tmp_path, text)
    return trial.experiment


def test_the_originals_defaults_stand_under_its_flags(tmp_path: Path) -> None:
    found = one(tmp_path, "dataset: shakespeare_char\nn_head: 4\nn_embd: 64\n")
    assert (found.model.n_layer, found.model.n_head, found.model.n_embd) == (6, 4, 64)
    assert found.train.schedule.name == "constant"
    assert found.model.block.norm.name == "rms"


def test_variants_are_found_under_our_names(tmp_path: Path) -> None:
    text = """
norm_variant_attn: layernorm
activation_variant: squared_relu
softmax_variant_attn: consmax
consmax_base: 2.0
window_size: 31
n_kv_group: 3
max_iters: 20
"""
    block = one(tmp_path, text).model.block
    assert (block.norm.name, block.ffn.activation.name) == ("layer", "relu2")
    assert (block.attention.score.name, block.attention.score.base) == ("consmax", 2.0)
    assert (block.attention.window, block.attention.n_kv_head) == (32, 3)  # i - 31 to i


def test_a_variant_has_the_originals_numbers_where_no_flag_gives_them(tmp_path: Path) -> None:
    block = one(tmp_path, "norm_variant_attn: krmsnorm\nsoftmax_variant_attn: consmax_v2\n").model
    assert (block.block.norm.features, block.block.attention.score.clamp) == ("last", None)
    assert block.norm.name == "rms"  # of the output, whatever the layers' is
    assert one(tmp_path, "norm_variant_attn: dact\n").model.block.norm.alpha == 1.0
    assert one(tmp_path, "norm_variant_attn: prmsnorm\n").model.block.norm.at_least == 1
    assert one(tmp_path, "optimizer: lookahead\n").train.optimizer.every == 6
    assert one(tmp_path, "lr_scheduler: step\n").train.schedule.every == 1000
    piecewise = one(tmp_path, "activation_variant: piecewise\n").model.block.ffn.activation
    # seven knots inside [-2, 2], whose ends are none
    assert (piecewise.points, piecewise.low, piecewise.high) == (7, -1.5, 1.5)


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ("use_flash_lobo: true\n", "layer"),  # the l is for learned
        ("use_flash_lobo: true\nuse_flash_lobo_per_head: true\n", "head"),
        ("use_flash_lobo: true\nuse_flash_obo_const: true\n", "fixed"),
        ("use_flash_lobo: false\n", "none"),
    ],
)
def test_off_by_one_is_learned_unless_a_flag_says_that_it_is_constant(
    tmp_path: Path, flags: str, kind: str
) -> None:
    assert one(tmp_path, flags).model.block.attention.off_by_one == kind


def test_strongermax_has_its_own_flags(tmp_path: Path) -> None:
    text = """
softmax_variant_attn: strongermax
strongermax_strength: 2.0
strongermax_obo: 1.0
strongermax_use_learned_obo_per_head: true
strongermax_divisor: 4.0
"""
    score = one(tmp_path, text).model.block.attention.score
    assert (score.base, score.off_by_one, score.learn, score.divisor) == (2.0, 1.0, "head", 4.0)


def test_flags_that_make_one_choice_here_are_taken_together(tmp_path: Path) -> None:
    found = one(tmp_path, "use_rotary_embeddings: true\nuse_abs_pos_embeddings: false\n")
    assert found.model.position.name == "rotary"
    found = one(tmp_path, "use_post_ln: true\nuse_pre_ln: false\n")
    assert (found.model.block.name, found.model.block.norm.name) == ("postnorm", "rms")


def test_a_choice_varies_whichever_of_its_flags_has_several_values(tmp_path: Path) -> None:
    text = "use_abs_pos_embeddings: false\nuse_rotary_embeddings: [true, false]\n"
    rotary = {"name": "rotary", "interleaved": True}
    found = [trial.settings for trial in trials(tmp_path, text)]
    assert found == [{"model.position": rotary}, {"model.position": "none"}]


def test_all_that_cannot_be_translated_is_named_at_once(tmp_path: Path) -> None:
    text = """
n_layer: [1, 2]
n_laier: 3
use_rotary_embeddings: true
optimizer: [adamw, shampoo]
"""
    with pytest.raises(ConfigError) as caught:
        trials(tmp_path, text)
    said = str(caught.value)
    assert "sweep.yaml:3: n_laier. Did you mean 'n_layer'?" in said
    assert "use_abs_pos_embeddings=True, use_rotary_embeddings=True" in said
    assert "optimizer=shampoo. Here are: adamw" in said
    assert len(said.splitlines()) == 1 + 3


def test_the_originals_seeds_are_replicates(tmp_path: Path) -> None:
    found = trials(tmp_path, "seed: [1, 2]\nn_layer: [1, 2]\n")
    assert [trial.seed for trial in found] == [1, 1, 2, 2]
    assert len({trial.configuration for trial in found}) == 2
    assert found[0].settings == {"model.n_layer": 1}


@pytest.mark.parametrize("flag", sorted(table().named))
def test_every_name_in_the_table_is_one_of_ours(tmp_path: Path, flag: str) -> None:
    only = {"use_concat_heads": "attention_variant: infinite\n"}
    only |= {f"strongermax_use_learned_obo{of}": STRONGER for of in ("", "_per_head")}
    before = only.get(flag, "")
    for value in table().named[flag].values:
        word = value.lower() if value in {"True", "False"} else value
        assert trials(tmp_path, f"{before}{flag}: {word}\n")


def begun(tmp_path: Path) -> str:
    """Something that opens as a run of two layers, as far as a sweep looks at it."""
    shape = ["model.n_layer=2", "model.n_embd=32", "model.vocab_size=70"]
    config = encode(load("shakespeare-char-cpu", shape))
    return str(Run.create(tmp_path / "run", config, {}).path)


def test_the_model_is_that_of_init_and_has_room_for_the_corpus(tmp_path: Path) -> None:
    place = begun(tmp_path)
    (found,) = trials(tmp_path, f"recipe: finetune\ninit: {place}\nset: {{model.dropout: 0.1}}")
    model = found.experiment.model
    assert (model.n_layer, model.n_embd, model.dropout) == (2, 32, 0.1)
    assert model.vocab_size == 70  # the corpus has 65
    assert found.experiment.train.init == place
    assert found.experiment.train.max_iters == load("finetune").train.max_iters


def test_a_grid_may_set_its_shape_against_fresh_weights(tmp_path: Path) -> None:
    place = begun(tmp_path)
    found = trials(
        tmp_path, f"recipe: finetune\ninit: {place}\ngrid: {{train.init: [null, {place}]}}"
    )
    assert [trial.experiment.train.init for trial in found] == [None, place]
    assert {trial.experiment.model.n_layer for trial in found} == {2}


def test_what_cannot_be_begun_from_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sweep\.yaml:1: nothing at .*gone"):
        trials(tmp_path, f"recipe: finetune\ninit: {tmp_path}/gone\n")
