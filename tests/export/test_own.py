"""Models without a class of transformers bring their own; it loads where Espalier is not."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from espalier.config import PartConfig, names, resolve
from espalier.errors import ConfigError
from espalier.export.custom import Custom, whole
from espalier.nn import slots
from espalier.nn.front.deep_encoder import DeepEncoderConfig
from espalier.nn.gpt import GPTConfig, sketch
from espalier.nn.state import at, seeing
from espalier.tree import merge
from tests.export.models import IDS, cleanly, config, load_all, shaken, write_own

pytest.importorskip("transformers")

CHOSEN: dict[str, Any] = {
    "two-learned": {"block": {"norm": "rms"}},  # two parts of one name: embed and position
    "layers": {
        "n_layer": 3,
        "layers": [
            {"repeat": 2, "block": {"attention": {"window": 4}}},
            {"block": {"ffn": {"activation": "oscillating"}}},
        ],
    },
    "shared": {"n_layer": 4, "stack": "shared"},
    "cortical": {"block": "cortical", "stack": "feedback", "head": "untied"},
    "fire": {"position": "fire", "block": {"attention": {"score": "sigmoid"}}},
    "one-of-many": {"block": {"ffn": "moe"}, "head": "multi_token"},
}


SPIKY = """
from espalier.nn.norm.rms import Rms
from espalier.nn.slots import NormConfig

FACTOR = 1.5


class SpikyConfig(NormConfig):
    def build(self, width, dims, layer):
        return Spiky(width, 1e-5, True)


class Spiky(Rms):
    def forward(self, x, now):
        return FACTOR * super().forward(x, now)
"""


def test_models_load_in_a_process_that_has_no_espalier(tmp_path: Path) -> None:
    own = tmp_path / "spiky.py"
    own.write_text(SPIKY, encoding="utf-8")
    models = CHOSEN | {"part-of-ones-own": {"block": {"norm": str(own)}}}
    for name, tree in models.items():
        write_own(config(tree), tmp_path / name)
    found = load_all(tmp_path)
    assert set(found) == set(models)
    assert {n: f for n, f in found.items() if not (isinstance(f, float) and f < 1e-5)} == {}


def every_part() -> dict[str, GPTConfig]:
    """One model for each part of each slot, and for each of its variants."""
    found = {}
    kinds = [kind for kind in vars(slots).values() if isinstance(kind, type)]
    for slot in kinds:
        if not issubclass(slot, PartConfig) or not slot.__dict__.get("slot"):
            continue
        for name in names(slot):
            for number, fields in enumerate(({}, *resolve(slot, name).variants)):
                tree: Any = {"name": name, **resolve(slot, name).small, **fields}
                for key in reversed(slot.places[0].split(".")):
                    tree = {key: tree}
                try:
                    shape = config(merge(tree, {}))
                    sketch(shape)
                except ConfigError:  # a part that asks for other sizes
                    continue
                found[f"{slot.slot.rpartition('.')[2]}-{name}-{number}"] = shape
    return found


@pytest.mark.long
def test_every_part_loads_in_a_process_that_has_no_espalier(tmp_path: Path) -> None:
    models = every_part()
    assert len(models) > 100
    for name, shape in models.items():
        write_own(shape, tmp_path / name)
    found = load_all(tmp_path)
    assert set(found) == set(models)
    assert {n: f for n, f in found.items() if not (isinstance(f, float) and f < 1e-5)} == {}


def test_the_file_imports_torch_and_transformers_alone() -> None:
    text = Custom(config(CHOSEN["cortical"])).source()
    tree = ast.parse(text)
    imports = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    roots = {str(name).partition(".")[0] for name in imports}
    assert roots <= {
        "__future__", "collections", "dataclasses", "functools", "itertools", "torch",
        "transformers", "typing",
    }  # fmt: skip
    assert "Apache-2.0" in text.split("\n")[0]


def test_the_file_holds_no_part_that_the_model_lacks() -> None:
    defined = {n.name for n in ast.parse(Custom(config()).source()).body if hasattr(n, "name")}
    assert {"Prenorm", "Causal", "Mlp", "Layer", "EmbedLearned", "PositionLearned"} <= defined
    assert not {"Glu", "Rms", "Rotary", "Parallel", "Units", "Untied"} & defined


def test_layers_that_differ_are_written_whole() -> None:
    runs = whole(config(CHOSEN["layers"])).layers
    assert runs is not None
    assert [run.repeat for run in runs] == [2, 1]
    assert runs[0].block.attention.window == 4
    assert runs[1].block.ffn.activation.name == "oscillating"


PADDED = """
import json, sys, torch, transformers
class Barred:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "espalier":
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Barred)
where = sys.argv[1] + "/model"
model = transformers.AutoModelForCausalLM.from_pretrained(where, trust_remote_code=True).eval()
ids = torch.tensor([[3, 1, 4, 1, 5]])
padded, mask = torch.tensor([[0, 0, 3, 1, 4, 1, 5]]), torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
with torch.no_grad():
    plain = model(ids)
    left = model(padded, attention_mask=mask).logits[:, 2:]
    loss = model(ids, labels=ids).loss
    by_hand = torch.nn.functional.cross_entropy(plain.logits[0, :-1], ids[0, 1:])
    text = model.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=0)
    fresh = type(model)(model.config).state_dict()
model.save_pretrained(sys.argv[1] + "/again")
there = sys.argv[1] + "/again"
again = transformers.AutoModelForCausalLM.from_pretrained(there, trust_remote_code=True)
print(json.dumps({
    "padding": float((left - plain.logits).abs().max()),
    "loss": float((loss - by_hand).abs()),
    "tokens": text.shape[1],
    "std": float(fresh["model.trunk.embed.weight"].std()),
    "saved": float((again(ids).logits - plain.logits).abs().max()),
}))
"""


def test_an_export_pads_learns_generates_and_saves_as_transformers_expects(tmp_path: Path) -> None:
    write_own(config({"block": {"norm": "rms"}}), tmp_path / "model")
    found = cleanly(PADDED, tmp_path)
    assert found["padding"] < 1e-5
    assert found["loss"] < 1e-6
    assert found["tokens"] == 25  # past the 16 positions that there are
    assert found["std"] == pytest.approx(0.02, rel=0.1)  # a new model starts as it does here
    assert found["saved"] == 0


SEEN = """
import json, sys, torch, transformers
from safetensors.torch import load_file
where = sys.argv[1] + "/model"
model = transformers.AutoModelForCausalLM.from_pretrained(where, trust_remote_code=True).eval()
seen = load_file(where + "/seen.st")
ids, slots, images = seen["ids"], seen["slots"], [(seen["pixels"], None)]
none = torch.full((2, 2), -1)
padded = torch.cat([none.clamp(min=0), ids], 1), torch.cat([none + 1, torch.ones_like(ids)], 1)
with torch.no_grad():
    plain = model(ids, images=images, slots=slots).logits
    left = model(*padded, images=images, slots=torch.cat([none, slots], 1)).logits[:, 2:]
    how = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    how["attention_mask"] = torch.ones_like(ids)  # a 0 among them is a token, no padding
    text = model.generate(ids, images=images, slots=slots, **how)
    more = torch.nn.functional.pad(slots, (0, 2), value=-1)
    last = model(text[:, :-1], images=images, slots=more).logits[:, -1]
    chosen = last.gather(1, text[:, -1:])[:, 0]
print(json.dumps({
    "plain": float((plain - seen["logits"]).abs().max()),
    "padded": float((left - seen["logits"]).abs().max()),
    "grown": float((last.amax(-1) - chosen).max()),
}))
"""


def test_an_export_sees_the_images_that_it_is_given(tmp_path: Path) -> None:
    shape = config({"front": {"name": "deep_encoder", **DeepEncoderConfig.small}})
    write_own(shape, tmp_path / "model")
    torch.manual_seed(7)
    model, ids = shaken(shape), IDS[:, :10].contiguous()
    held = load_file(tmp_path / "model" / "model.safetensors")
    model.load_state_dict(
        {name.removeprefix("model."): t for name, t in held.items()}, strict=False
    )
    pixels, slots_ = torch.rand(3, 64, 64) * 2 - 1, torch.full_like(ids, -1)
    slots_[1, 2:5] = torch.arange(3)  # one feature, its line's newline, the separator
    with torch.no_grad():
        logits = model(ids, seeing(at(ids), [(pixels, None)], slots_))
        blind = model(ids)
    assert (logits - blind)[1, 2:].abs().max() > 1e-3
    seen = {"ids": ids, "slots": slots_, "pixels": pixels, "logits": logits}
    save_file(seen, tmp_path / "model" / "seen.st")
    found = cleanly(SEEN, tmp_path)
    assert found["plain"] < 1e-5
    assert found["padded"] < 1e-5
    assert found["grown"] < 1e-4  # the likeliest, or one as good as level with it
