"""Recipes and overrides: what they mean and what is said when they are wrong."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.config import decode, digest, encode, names
from espalier.errors import ConfigError
from espalier.experiment import Experiment, apply, find, load, shipped
from espalier.nn.gpt import GPTConfig, sketch
from espalier.nn.slots import NormConfig
from espalier.train.setup import rate
from espalier.tree import dump, merge, override, parse_value, read_yaml

SPIKY = '''
"""A norm of one's own."""
from espalier.nn.slots import Dims, NormConfig, Part

class SpikyConfig(NormConfig):
    """x"""
    height: float = 2.0
    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Spiky()

class Spiky(Part):
    def forward(self, x, now):
        return x
'''


def model(*overrides: str) -> GPTConfig:
    return load("gpt2", overrides).model


def wrong(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        sketch(model(*overrides))
    return str(caught.value)


def test_an_override_swaps_one_part() -> None:
    assert encode(model("model.block.norm=rms"))["block"]["norm"]["name"] == "rms"


def test_another_part_drops_the_old_ones_fields() -> None:
    tree = encode(model("model.block.ffn.activation=relu", "model.block.ffn=glu"))
    assert tree["block"]["ffn"]["activation"] == {"name": "silu"}


def test_a_field_of_a_part_keeps_its_other_fields() -> None:
    attention = encode(model("model.block.attention.window=9"))["block"]["attention"]
    assert attention["window"] == 9
    assert attention["score"] == {"name": "softmax"}


def test_layers_merge_onto_the_block() -> None:
    layers = "model.layers=[{repeat: 4, block: {norm: rms}}, {repeat: 8}]"
    blocks = model(layers, "model.block.attention.window=7").blocks()
    assert [encode(b)["norm"]["name"] for b in blocks] == ["rms"] * 4 + ["layer"] * 8
    assert {encode(b)["attention"]["window"] for b in blocks} == {7}


def test_an_entry_of_layers_can_be_overridden() -> None:
    got = model("model.layers=[{repeat: 12}]", "model.layers.0.block.attention.window=256")
    assert encode(got.blocks()[3])["attention"]["window"] == 256


@pytest.mark.parametrize(
    ("override_", "message"),
    [
        ("model.n_head=7", "model.n_head=7 must divide model.n_embd=768. Near: 6, 8, "),
        ("model.block.ffn.acivation=relu", "unknown field 'acivation' in model.block.ffn (mlp)."),
        ("model.block.ffn.acivation=relu", "Did you mean 'activation'?"),
        ("model.block.norm=rsm", "model.block.norm: no norm named 'rsm'. Did you mean 'rms'?"),
        ("model.block.attention.window=-1", "window must be at least 1, got -1"),
        ("model.layers.0.block.norm=rms", "model.layers is not set; write layers: [{repeat: 12}]"),
        ("model.layers=[{repeat: 3}]", "model.layers repeat 3 layers, but model.n_layer=12"),
        ("model.layers=[{block: {nrom: rms}}]", "unknown field 'nrom' in model.layers.0.block"),
        ("model.n_layer=many", "model.n_layer must be a whole number, got 'many'"),
        ("model.n_layer=1.5", "model.n_layer must be a whole number, got 1.5"),
        ("model.bias=1", "model.bias must be true or false, got 1"),
        ("train.learning_rate=nan", "train.learning_rate"),
        ("model.block=[1]", "model.block: expected a name or a mapping"),
        ("model.n_layer.x=1", "model.n_layer is 12: it has no field 'x'"),
        ("modle.n_layer=1", "unknown field 'modle' in the recipe. Did you mean 'model'?"),
        ("seed", "'seed' is not an override"),
        ("--batch_sise=4", "--batch_sise: unknown key 'batch_sise'. Did you mean 'batch_size'?"),
        ("model.block.norm=./nowhere.py", "no file nowhere.py"),
        ("model.block.norm=no.such.module", "no module named 'no.such.module'"),
        ("model.block.norm=./recipe.yaml", "no module named './recipe.yaml'. A part of your own"),
        ("train.learning_rate=.inf", "train.learning_rate must be a finite number, got inf"),
        ("seed=" + "9" * 5000, "seed must be a whole number, got '999"),
        ("seed=" + "[" * 9999, "seed must be a whole number, got '[[["),
        ("--batch_size={[]: 1}", "data.batch_size must be a whole number, got '{[]: 1}'"),
    ],
)
def test_what_is_said_of_a_wrong_override(override_: str, message: str) -> None:
    assert message in wrong(override_)


def test_nanogpt_flags_are_translated() -> None:
    got = load("shakespeare-char", ["--batch_size=4", "--beta2=0.9", "--decay_lr=False"])
    assert got.data.batch_size == 4
    assert encode(got.train)["optimizer"]["beta2"] == 0.9
    assert encode(got.train)["schedule"]["name"] == "constant"


def test_without_decay_nanogpts_rate_is_the_same_from_the_first_update(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("decay_lr = False\nlearning_rate = 3e-5\nwarmup_iters = 100\n", "utf-8")
    train = load(str(file)).train
    steady = rate(train, 20)
    assert [steady(step) for step in (0, 10, 19)] == [3e-5] * 3


def test_a_nanogpt_config_is_read_as_literals(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        "import time\nwandb_run_name = 'ft-' + str(time.time())\nn_layer = 2\n"
        "dataset = 'mine'\nmax_iters = 2 * 300\nlr_decay_iters = max_iters\nbias = True\n",
        encoding="utf-8",
    )
    got = load(str(file))
    assert (got.model.n_layer, got.train.max_iters, got.model.bias) == (2, 600, True)
    assert got.train.lr_decay_iters == 600
    assert got.data.corpus == "data/mine"


def test_a_wigglegpt_config_is_read(tmp_path: Path) -> None:
    file = tmp_path / "config_gpt2_bio_3070.py"
    text = (
        "wandb_log = False  # a comment\nwandb_run_name = 'x'\ndataset = 'openwebtext'\n"
        "batch_size = 2\nbio_threshold = 0.25\nuse_bio_mlp = True\nbio_compartments = 2\n"
        "device = 'cuda'\ndtype = 'float16'\ncompile = False\n"
    )
    file.write_text(text, encoding="utf-8")
    got = load(str(file))
    ffn = encode(got.model.block)["ffn"]
    assert (ffn["name"], ffn["compartments"], ffn["threshold"]) == ("wiggle", 2, 0.25)
    assert (got.train.dtype, got.train.compile) == ("float16", False)
    assert encode(load(str(file), ["--use_bio_mlp=False"]).model.block)["ffn"]["name"] == "mlp"
    # what its trainer takes where the file says nothing
    file.write_text("use_bio_mlp = True\n", encoding="utf-8")
    ffn = encode(load(str(file)).model.block)["ffn"]
    assert (ffn["compartments"], ffn["threshold"]) == (4, 0.3)
    # off, or not mentioned, the others say nothing
    for off in ("use_bio_mlp = False\n", ""):
        file.write_text(off + "bio_compartments = 8\n", encoding="utf-8")
        assert encode(load(str(file)).model.block)["ffn"]["name"] == "mlp"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n_layr = 2", "x.py:1: unknown key 'n_layr'. Did you mean 'n_layer'?"),
        ("n_layer = open('x')", "x.py:1: not a literal: open('x')"),
        ("for i in []: pass", "x.py:1: only `key = literal` is read"),
        ("n_layer = 1 // 0", "x.py:1:"),
        ("n_layer = 'two'", "model.n_layer must be a whole number"),
        ("n_layer = -'two'", "x.py:1: not a literal: -'two'"),
        ("n_layer = " + "1+" * 20000 + "1", "x.py: cannot be read as assignments"),
    ],
)
def test_a_nanogpt_config_never_runs(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.py").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path / "x.py"))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nmodel: {n_layr: 2}\n", "r.yaml:2: unknown field 'n_layr' in model."),
        ("seed: 1\nseed: 2\n", "r.yaml:2: seed stands twice"),
        ("seed: [1\n", "r.yaml:2:"),
        ("seed: &a 1\nmodel: *a\n", "aliases"),
        ("- 1\n", "a recipe is a mapping"),
        ("extends: gpt3\n", "r.yaml:1: extends: no recipe named 'gpt3'"),
        ("extends: r.yaml\n", "extends itself"),
        ("model:\n  block:\n    norm: rsm\n", "r.yaml:3: model.block.norm: no norm named 'rsm'"),
        ("seed: !!python/object/apply:os.getcwd []\n", "r.yaml"),
        ("seed: 1\nmo\0del: {}\n", "r.yaml:2: a control character, which YAML forbids"),
        ("seed: 1\nmodel: " + "[" * 9999, "r.yaml: nested too deeply"),
        ("seed: " + "9" * 5000, "r.yaml:1: Exceeds the limit (4300 digits)"),
    ],
)
def test_what_is_said_of_a_wrong_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    assert message in str(caught.value)


def test_a_recipe_may_hold_a_part_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "spiky.py"
    file.write_text(SPIKY, encoding="utf-8")
    got = model(f"model.block.norm={file}", "model.block.norm.height=3")
    assert encode(got)["block"]["norm"] == {"name": str(file), "height": 3.0}
    assert sketch(got) is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def (", "cannot be imported: SyntaxError: invalid syntax"),
        ("import absent", "cannot be imported: ModuleNotFoundError: No module named 'absent'"),
        ("\nx = 1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("\nx = 1 / 0", "own.py:2)"),
        ("raise SystemExit(5)", "cannot be imported: SystemExit: 5"),
        ("x = 1", "own.py must define exactly one NormConfig, found 0"),
    ],
)
def test_a_mistake_in_a_part_of_ones_own_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "own.py"
    file.write_text(text, encoding="utf-8")
    assert message in wrong(f"model.block.norm={file}")


def test_a_recipe_that_is_not_shipped_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no recipe named 'gpt22'\. Did you mean 'gpt2'"):
        find("gpt22")


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_builds_on_meta_and_survives_a_round_trip(name: str) -> None:
    got = load(name)
    assert decode(Experiment, encode(got)) == got
    size = [] if got.model.vocab_size else ["model.vocab_size=65"]
    assert sum(p.numel() for p in sketch(apply(got, size).model).parameters()) > 0


def test_every_shipped_recipe_says_where_its_numbers_come_from() -> None:
    for name in shipped():
        assert find(name).read_text(encoding="utf-8").startswith("# ")


def test_the_digest_tells_configurations_apart_and_ignores_spelling() -> None:
    assert digest(model("model.dropout=0")) == digest(model("model.dropout=0.0"))
    assert digest(model("model.dropout=0.1")) != digest(model())
    assert digest(model("model.block.norm=rms")) != digest(model())


def test_parts_are_found_by_listing_a_folder() -> None:
    found = names(NormConfig)
    assert found == sorted(found)
    assert {"layer", "rms"} <= set(found)
    assert "__init__" not in found


def test_the_schema_for_editors_knows_every_part() -> None:
    text = str(Experiment.model_json_schema())
    assert all(f"'{name}'" in text for name in ("rms", "glu", "parallel", "rotary", "muon", "wsd"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1e9", 1e9),
        ("1_000", 1000),
        ("true", True),
        ("no", "no"),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("{name: rms}", {"name": "rms"}),
        ("a: b: c", "a: b: c"),
        ("", None),
    ],
)
def test_values_of_overrides(text: str, value: object) -> None:
    assert parse_value(text) == value


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False)
)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=6), trees, max_size=4))
def test_yaml_is_read_back_as_it_was_written(tree: dict[str, object]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "t.yaml")
        file.write_text(dump(tree), encoding="utf-8")
        assert read_yaml(file).tree == tree


@given(trees, trees)
def test_a_merge_keeps_all_of_the_patch(base: object, patch: object) -> None:
    once = merge(base, patch)
    assert merge(once, patch) == once


def test_overriding_leaves_the_old_tree_alone() -> None:
    tree = {"a": {"b": [1, {"c": 2}]}}
    assert override(tree, "a.b.1.c", 3) == {"a": {"b": [1, {"c": 3}]}}
    assert tree == {"a": {"b": [1, {"c": 2}]}}
