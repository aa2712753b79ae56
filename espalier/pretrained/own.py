"""Espalier's exports read back: tensors in our own names, or the class made for transformers."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from espalier.config import decode
from espalier.errors import UserError
from espalier.nn.gpt import GPTConfig, sketch
from espalier.pretrained import files
from espalier.pretrained.foreign import Foreign, once
from espalier.pretrained.table import Row, to_ours

MODE = "image_mode"  # in config.json
PREFIX = "model."  # of tensors, in the class made for transformers


def read(folder: Path) -> Foreign:
    """Raises UserError where the configuration is not one of ours or the weights do not fit it."""
    file = folder / "config.json"
    found = files.read_json(file)
    if "model" not in found:
        raise UserError(f"{file} lacks 'model'")
    tree = bare(found["model"])
    if strange := next(strangers(tree), None):
        raise UserError(f"{file}: the part {strange} is code from outside, which is not run")
    config = decode(GPTConfig, tree, f"{file}: model")
    prefix = PREFIX if "auto_map" in found else ""
    rows = [Row(name, prefix + name) for name in dict.fromkeys(once(sketch(config)).values())]
    weights = to_ours(files.read_tensors(folder), rows, config, str(folder))
    return Foreign("espalier", folder, config, weights, image_mode=found.get(MODE))


def strangers(value: Any) -> Iterator[str]:
    """Words that would be read as a file or a module outside the package, wherever they stand."""
    if isinstance(value, str):
        dotted = "." in value and all(word.isidentifier() for word in value.split("."))
        if dotted or value.endswith(".py"):
            yield value
    elif isinstance(value, Iterable):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from strangers(item)


def bare(value: Any) -> Any:
    """A configuration without the names of the classes that were made of it."""
    if isinstance(value, Mapping):
        return {key: bare(item) for key, item in value.items() if key != "class"}
    return [bare(item) for item in value] if isinstance(value, list) else value
