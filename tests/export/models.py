"""Small models of every shape, and a clean process that loads many exports at once."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from espalier.config import decode, encode
from espalier.export.custom import FILE, Custom
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.train import checkpoint
from espalier.tree import merge

SIZES = {"n_layer": 2, "n_embd": 32, "n_head": 4, "block_size": 16, "vocab_size": 29}
LLAMA = {
    "bias": False,
    "position": "rotary",
    "head": "untied",
    "block": {
        "name": "prenorm",
        "norm": {"name": "rms", "eps": 1e-6},
        "attention": {"name": "causal", "n_kv_head": 2},
        "ffn": "glu",
    },
}
NEOX = {
    "head": "untied",
    "position": {"name": "rotary", "fraction": 0.25},
    "block": {"name": "parallel"},
}
IDS = torch.randint(29, (2, 16), generator=torch.Generator().manual_seed(0))


def config(tree: Mapping[str, Any] = {}) -> GPTConfig:
    return decode(GPTConfig, merge(merge(encode(GPTConfig()), SIZES), tree))


def shaken(shape: GPTConfig) -> GPT:
    """A model far from where training starts, zeros included."""
    model = make(shape, 1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def write_own(shape: GPTConfig, folder: Path) -> None:
    """The export of a model with a class of its own, and the logits it has to give."""
    folder.mkdir()
    made, model = Custom(shape), shaken(shape)
    (folder / f"{FILE}.py").write_text(made.source(), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(made.config()), encoding="utf-8")
    held = {name: t.contiguous() for name, t in checkpoint.tensors(model).items()}
    save_file(made.tensors(held), folder / "model.safetensors", {"format": "pt"})
    with torch.no_grad():
        save_file({"ids": IDS, "logits": model(IDS)}, folder / "wanted.st")


LOAD = """
import json, sys
from pathlib import Path

class Barred:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("espalier", "jaxtyping", "pydantic"):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Barred)
import torch
from safetensors.torch import load_file
import transformers
found = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    if not (folder / "wanted.st").is_file():
        continue
    try:
        model, told = transformers.AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=True, output_loading_info=True
        )
        wanted = load_file(folder / "wanted.st")
        with torch.no_grad():
            apart = (model.eval()(wanted["ids"]).logits - wanted["logits"]).abs().max()
        wrong = {key: sorted(map(str, told[key])) for key in told if told[key]}
        found[folder.name] = wrong or float(apart)
    except Exception as error:
        found[folder.name] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def load_all(place: Path) -> dict[str, Any]:
    """Of each export below `place`: the largest difference of a logit, or what went wrong."""
    found = cleanly(LOAD, place)
    assert isinstance(found, dict)
    return found


def cleanly(script: str, place: Path) -> Any:
    """What a script prints as JSON that knows nothing of the package; its argument is `place`."""
    cache = {"HF_HOME": str(place / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(place)],
        env={**os.environ, **cache, "HF_MODULES_CACHE": str(place / "cache" / "modules")},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().split("\n")[-1])
