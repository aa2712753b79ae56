"""A verb's arguments as its function declares them, as JSON schema and as command-line words."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from cyclopts import App

from espalier.errors import UserError, nearest

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string"}


@dataclass(frozen=True)
class Argument:
    """One argument: `flag` is what the command line calls it, empty for a positional one."""

    name: str
    flag: str
    off: str  # the flag that says no; empty where there is none
    schema: Mapping[str, Any]
    required: bool

    @property
    def many(self) -> bool:
        return bool(self.schema["type"] == "array")

    @property
    def item(self) -> Mapping[str, Any]:
        """The schema of one value."""
        return dict(self.schema["items"]) if self.many else self.schema

    @property
    def closed(self) -> bool:
        """Whether no value of it can name a file, a module or a place on the network."""
        return self.item["type"] != "string" or "enum" in self.item

    def words(self, values: Sequence[Any]) -> list[str]:
        """The command line's words for the values given."""
        found = []
        for value in values:
            if isinstance(value, bool):
                word = self.flag if value else self.off
                found += [word] if word else []
            else:
                found.append(f"{self.flag}={value}" if self.flag else str(value))
        return found


def describe(name: str, verb: Callable[..., Any]) -> tuple[str, dict[str, Argument]]:
    """What a verb does in one sentence, and its arguments by name, those of dataclasses too."""
    app = App()
    app.command(verb, name=name)
    found = {}
    for one in app[name].assemble_argument_collection(parse_docstring=True):
        schema = None if one.children else schema_of(one.hint)
        if schema is None:
            continue
        told = " ".join((one.parameter.help or "").split())
        option = one.name.startswith("--")
        key = one.name.removeprefix("--").replace("-", "_").lower()
        found[key] = Argument(
            key,
            one.name if option else "",
            next(iter(one.negatives), "") if schema["type"] == "boolean" else "",
            schema | ({"description": told} if told else {}),
            one.required,
        )
    summary = (verb.__doc__ or "").strip().partition("\n")[0]
    return summary, found


def schema_of(hint: Any) -> dict[str, Any] | None:
    """The JSON schema of an annotation; None for one that no single value or list can fill."""
    if hint in _TYPES:
        return {"type": _TYPES[hint]}
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"type": "string", "enum": list(inner)}
    if origin in {Union, types.UnionType}:
        rest = [one for one in inner if one is not type(None)]
        return schema_of(rest[0]) if len(rest) == 1 else None
    if origin is list or (origin is tuple and inner[1:] == (...,)):
        items = schema_of(inner[0])
        return None if items is None else {"type": "array", "items": items}
    return None


def values(argument: Argument, given: Any) -> list[Any]:
    """What was given, as a list of values of the right kind; UserError otherwise."""
    listed = given if isinstance(given, list) else [given]
    if len(listed) > 1 and not argument.many:
        raise UserError(f"{argument.name} takes one value, got {len(listed)}")
    return [_one(argument, value) for value in listed]


def _one(argument: Argument, value: Any) -> Any:
    kind, choices = argument.item["type"], argument.item.get("enum")
    right = {
        "boolean": isinstance(value, bool),
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, (int, float)) and not isinstance(value, bool),
        "string": isinstance(value, str),
    }
    if not right[kind]:
        raise UserError(f"{argument.name} takes a value of type {kind}, got {value!r}")
    if choices and value not in choices:
        raise UserError(f"{argument.name} is one of {', '.join(choices)}; got {value!r}")
    if isinstance(value, str) and "\0" in value:
        raise UserError(f"{argument.name} holds a null character")
    return value


def known(name: str, names: Sequence[str], what: str) -> str:
    """`name`, if it is one of `names`; UserError with the nearest otherwise."""
    if name not in names:
        raise UserError(
            f"no {what} named '{name}'.{nearest(name, names)} Known: {', '.join(names)}."
        )
    return name
