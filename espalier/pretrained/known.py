"""Models known by name (`models.yaml`): what there is to import, and what it takes to tune it."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from espalier.config import Config, decode
from espalier.errors import UserError
from espalier.nn.gpt import GPTConfig
from espalier.tree import read_yaml

TABLE = Path(__file__).with_name("models.yaml")


class _Sizes(Config):
    n_layer: int
    n_head: int
    n_embd: int
    vocab_size: int | None = None
    alias: str | None = None
    """what the hub calls it now"""


class _Family(Config):
    kind: str
    bytes: int
    models: dict[str, _Sizes]


@dataclass(frozen=True)
class Known:
    """A published model."""

    name: str
    family: str
    config: GPTConfig
    weight_bytes: int
    """of one weight, as published"""
    alias: str | None


@cache
def table() -> dict[str, Known]:
    """Every known model by name, in the order of the file."""
    found = {}
    for family, tree in read_yaml(TABLE).tree.items():
        group = decode(_Family, tree, family)
        for name, sizes in group.models.items():
            config = SHAPES[group.kind](sizes)
            found[name] = Known(name, family, config, group.bytes, sizes.alias)
    return found


def names() -> list[str]:
    return list(table())


def aliases() -> dict[str, str]:
    """Short name -> what the hub calls it now."""
    return {name: model.alias for name, model in table().items() if model.alias}


def family(name: str) -> list[Known]:
    """The members of a family, or UserError."""
    found = [model for model in table().values() if model.family == name]
    if not found:
        known = ", ".join(dict.fromkeys(model.family for model in table().values()))
        raise UserError(f"no family '{name}' of models; known: {known}")
    return found


def _gpt2(sizes: _Sizes) -> GPTConfig:
    shape = {"n_layer": sizes.n_layer, "n_head": sizes.n_head, "n_embd": sizes.n_embd}
    return decode(GPTConfig, {**shape, "block_size": 1024, "vocab_size": 50257})


def _gpt_neox(sizes: _Sizes) -> GPTConfig:
    tree = {
        "n_layer": sizes.n_layer,
        "n_head": sizes.n_head,
        "n_embd": sizes.n_embd,
        "block_size": 2048,
        "vocab_size": sizes.vocab_size or 50304,
        "position": {"name": "rotary", "fraction": 0.25},
        "block": "parallel",
        "head": "untied",
    }
    return decode(GPTConfig, tree)


SHAPES = {"gpt2": _gpt2, "gpt_neox": _gpt_neox}
