"""Typed configuration: parts found by file name, errors that name the path."""

import hashlib
import importlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from espalier.errors import ConfigError, nearest
from espalier.tree import merge

C = TypeVar("C", bound="Config")

OWN = "A part of your own is a dotted name or a path.py"
_described: set[str] = set()  # slots whose JSON schema is being written


class Config(BaseModel):
    """A frozen, strict piece of configuration: unknown keys and wrong types are errors."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class PartConfig(Config):
    """Configuration of one part of a slot.

    `class NormConfig(PartConfig, slot="espalier.nn.norm")` binds a slot to a folder; each file
    there holds one subclass, and the file's stem is its `name`. A field annotated with the slot's
    class takes a name, a mapping with `name`, or a ready configuration.
    """

    slot: ClassVar[str] = ""
    places: ClassVar[tuple[str, ...]] = ()  # where a model holds such a part: paths below `model`
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ()  # fields the contract suite tries too
    small: ClassVar[Mapping[str, Any]] = {}  # and those that it makes a large part small with
    chosen: ClassVar[str] = ""  # the name of a part that lives outside the package

    def __init_subclass__(cls, slot: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if slot:
            cls.slot = slot

    @property
    def name(self) -> str:
        return self.chosen or type(self).__module__.rpartition(".")[2]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if "slot" not in cls.__dict__ or not cls.slot:
            return handler(source)
        return core_schema.no_info_plain_validator_function(cls._choose)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        if "slot" not in cls.__dict__ or not cls.slot:
            return handler(schema)
        known = names(cls)
        parts: list[JsonSchemaValue] = []
        if cls.slot in _described:  # a part that holds another of its slot: name it, say no more
            parts = [{"type": "object", "required": ["name"]}]
        else:
            _described.add(cls.slot)
            parts = [cls._describe(name, handler) for name in known]
            _described.remove(cls.slot)
        return {"anyOf": [{"enum": known}, {"type": "string", "pattern": "[./]"}, *parts]}

    @classmethod
    def _describe(cls, name: str, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        part = dict(handler(resolve(cls, name).__pydantic_core_schema__))
        found = dict(handler.resolve_ref_schema(part))
        found["properties"] = {"name": {"const": name}} | dict(found.get("properties", {}))
        found["required"] = ["name", *found.get("required", [])]
        return found

    @classmethod
    def _choose(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        tree = {"name": value} if isinstance(value, str) else value
        if not isinstance(tree, Mapping):
            raise PydanticCustomError(
                "part", "expected a name or a mapping, got {got}", {"got": repr(value)}
            )
        name = tree.get("name")
        if not isinstance(name, str):
            raise PydanticCustomError(
                "part", "say which part: name: {known}", {"known": _known(cls)}
            )
        try:
            part = resolve(cls, name)
        except ConfigError as error:
            raise PydanticCustomError("part", "{why}", {"why": str(error)}) from None
        return part.model_validate({key: item for key, item in tree.items() if key != "name"})


def default(name: str, **fields: Any) -> Any:
    """The default of a field that takes a part."""
    return Field(default={"name": name, **fields}, validate_default=True)


def names(slot: type[PartConfig]) -> list[str]:
    """The parts of a slot, read from its folder."""
    package = importlib.import_module(slot.slot)
    folders = [Path(place) for place in package.__path__]
    stems = {file.stem for folder in folders for file in folder.glob("*.py")}
    return sorted(stem for stem in stems if not stem.startswith("_"))


def resolve(slot: type[C], name: str) -> type[C]:
    """The configuration class of a part: a file of the slot's folder, a dotted name or a path."""
    assert issubclass(slot, PartConfig)
    if name.endswith(".py"):
        module = _own(name, lambda: _load_file(Path(name)))
    elif "." in name and all(word.isidentifier() for word in name.split(".")):
        module = _own(name, lambda: importlib.import_module(name))
    elif "." in name:
        raise ConfigError(f"no module named '{name}'. {OWN}")
    elif name in names(slot):
        module = importlib.import_module(f"{slot.slot}.{name}")
    else:
        kind = slot.slot.rpartition(".")[2]
        hint = nearest(name, names(slot))
        raise ConfigError(f"no {kind} named '{name}'.{hint} Known: {_known(slot)}.")
    found = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, slot) and item.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ConfigError(f"{name} must define exactly one {slot.__name__}, found {len(found)}")
    if "." in name:
        found[0].chosen = name
    return found[0]


def _known(slot: type[PartConfig]) -> str:
    return ", ".join(names(slot))


def _own(name: str, load: Callable[[], ModuleType]) -> ModuleType:
    """Somebody's own module: whatever goes wrong in it is theirs to mend, at the line named."""
    try:
        return load()
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and name.startswith(error.name):
            raise ConfigError(f"no module named '{name}'. {OWN}") from None
        last = traceback.extract_tb(error.__traceback__)[-1]
        at = "" if isinstance(error, SyntaxError) else f" ({last.filename}:{last.lineno})"
        raise ConfigError(
            f"{name} cannot be imported: {type(error).__name__}: {error}{at}"
        ) from None


def _load_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise ConfigError(f"no file {file}")
    name = f"espalier_part_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def encode(config: Config) -> dict[str, Any]:
    """The canonical tree: every field, plain values only, parts with their `name` first."""
    head = {"name": config.name} if isinstance(config, PartConfig) else {}
    return head | {key: _plain(getattr(config, key)) for key in type(config).model_fields}


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return encode(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def decode(
    kind: type[C],
    tree: Mapping[str, Any],
    at: str = "",
    where: Callable[[tuple[str, ...]], str] = lambda path: "",
) -> C:
    """Validate a tree; raises ConfigError with one line per problem (three at most).

    Each line is `where(path)`, which may name a file and line, and a sentence with the dotted path
    below `at`.
    """
    try:
        return kind.model_validate(_hard(tree))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            place = where(tuple(str(key) for key in problem["loc"]))
            lines.append(place + _sentence(kind, tree, problem, at))
        raise ConfigError("\n".join(list(dict.fromkeys(lines))[:3])) from None


def digest(config: Config) -> str:
    """Twelve hexadecimal digits that identify a configuration."""
    text = json.dumps(encode(config), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


def refine(config: C, patch: Mapping[str, Any], at: str = "") -> C:
    """`config` with `patch` merged onto its canonical tree."""
    return decode(type(config), merge(encode(config), patch), at)


def _hard(value: Any) -> Any:
    """Lists as tuples, integral floats as ints, so that strict validation takes YAML's values."""
    if isinstance(value, Mapping):
        return {key: _hard(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_hard(item) for item in value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


_TYPES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "model_type": "a mapping",
    "dict_type": "a mapping",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def _sentence(kind: type[Config], tree: Any, problem: Any, at: str) -> str:
    loc = [str(key) for key in problem["loc"]]
    path = ".".join([at, *loc] if at else loc)
    what, got = problem["type"], repr(problem["input"])
    if what == "extra_forbidden":
        return _unknown(kind, tree, loc, at)
    if what == "missing":
        return f"{path} is missing"
    if what in _TYPES:
        return f"{path} must be {_TYPES[what]}, got {got}"
    if what in _BOUNDS:
        word, bound = _BOUNDS[what]
        return f"{path} must be {word} {problem['ctx'][bound]}, got {got}"
    if what == "literal_error":
        return f"{path} must be {problem['ctx']['expected']}, got {got}"
    if what == "finite_number":
        return f"{path} must be a finite number, got {got}"
    if what == "part":
        return f"{path}: {problem['msg']}"
    return f"{path}: {problem['msg'].removeprefix('Value error, ')}"


def _unknown(kind: type[Config], tree: Any, loc: Sequence[str], at: str) -> str:
    owner: type[Config] = kind
    node = tree
    for key in loc[:-1]:
        node = node[int(key)] if isinstance(node, (list, tuple)) else node[key]
        owner = _field_class(owner, key, node)
    known = list(owner.model_fields)
    part = f" ({_field_name(owner, node)})" if issubclass(owner, PartConfig) else ""
    place = ".".join([at, *loc[:-1]] if at else loc[:-1]) or "the recipe"
    hint = nearest(loc[-1], known) or (f" Known: {', '.join(known)}." if known else " It has none.")
    return f"unknown field '{loc[-1]}' in {place}{part}.{hint}"


def _field_name(owner: type[Config], node: Any) -> str:
    return str(node.get("name", owner.__name__)) if isinstance(node, Mapping) else str(node)


def _field_class(owner: type[Config], key: str, node: Any) -> type[Config]:
    field = owner.model_fields.get(key)
    if field is None:  # an index into a list: the owner is already the element's class
        return owner
    for kind in _classes(field.annotation):
        if issubclass(kind, PartConfig) and "slot" in kind.__dict__:
            return resolve(kind, _field_name(kind, node))
        return kind
    return owner


def _classes(annotation: Any) -> list[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [kind for inner in get_args(annotation) for kind in _classes(inner)]
