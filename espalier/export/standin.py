"""What an exported model has in place of the configuration system, kernels and errors of Espalier.

Bundled into `modeling_espalier.py`, where names of `espalier.config`, `.tree`, `.errors` and
pydantic mean those of this file. Values were checked when the model was built; here they are read.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ConfigError(ValueError):
    """Parts that do not fit one another."""


class Config:
    """A piece of configuration, as config.json holds it: `class` names the kind."""

    known: ClassVar[dict[str, type[Config]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__()
        Config.known[cls.__name__] = cls

    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)


class PartConfig(Config):
    """The configuration of a part."""

    name: str


class NoKernel:
    """No native kernel is part of an export: each part takes its way through torch."""

    @staticmethod
    def serves(*_: Any) -> bool:
        return False


def Field(default: Any = None, **_: Any) -> Any:  # noqa: N802 - pydantic's name
    return default


def default(name: str, **fields: Any) -> Any:
    return {"name": name, **fields}


def encode(config: Any) -> Any:
    return config


def merge(base: Any, patch: Any) -> Any:
    """The block of every layer that differs stands whole in config.json."""
    return patch


def decode(kind: type[Any], tree: dict[str, Any], at: str = "") -> Any:
    return kind(**tree)


def read(value: Any) -> Any:
    """Configuration objects of a tree from config.json."""
    if isinstance(value, (list, tuple)):
        return tuple(read(item) for item in value)
    if not isinstance(value, dict):
        return value
    fields = {key: read(item) for key, item in value.items()}
    kind = fields.pop("class", None)
    return Config.known[kind](**fields) if kind else fields
