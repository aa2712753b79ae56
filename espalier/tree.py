"""Trees of plain values: read from YAML with line numbers, merged, and overridden by path."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from espalier.errors import ConfigError

Path_ = tuple[str, ...]
_BETWEEN = re.compile(r"^---(?=\s|\Z)", re.MULTILINE)  # two documents of one file


class Source(NamedTuple):
    """A YAML file as a tree, and the line on which each path stands."""

    tree: dict[str, Any]
    lines: dict[Path_, int]


class _Dumper(yaml.SafeDumper):
    """YAML that quotes what would break a line, and writes out what stands twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)


class _Loader(yaml.SafeLoader):
    """YAML whose floats include 3e-4, whose booleans are true and false only, without aliases."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not read", problem_mark=mark)
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, rule) for tag, rule in rules if not tag.endswith((":float", ":bool", ":timestamp"))
    ]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$|^[-+]?\.inf$|^\.nan$"),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|false|True|False)$"), list("tfTF")
)
_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def read_yaml(file: Path) -> Source:
    """Read a mapping; every problem is a ConfigError that names file and line."""
    text = _text_of(file)
    lines: dict[Path_, int] = {}
    tree = _compose(text, str(file), lines)
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: a recipe is a mapping, got {type(tree).__name__}")
    return Source(tree, lines)


def read_documents(file: Path) -> list[tuple[Any, dict[Path_, int]]]:
    """Every document of a YAML file, whatever it holds, with the line of each path."""
    found = []
    whole, start = _text_of(file), 0
    for end in [*(mark.start() for mark in _BETWEEN.finditer(whole)), len(whole)]:
        lines: dict[Path_, int] = {}
        before = "\n" * whole.count("\n", 0, start)
        tree = _compose(before + _BETWEEN.sub("", whole[start:end], count=1), str(file), lines)
        if tree is not None:
            found.append((tree, lines))
        start = end
    return found


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 at byte {error.start}") from None


def parse_value(text: str) -> Any:
    """A value of an override: `3e-4` is a number, `[1, 2]` a list, `{name: rms}` a mapping."""
    try:
        return _compose(text, text, {})
    except ConfigError:
        return text


def dump(tree: Mapping[str, Any]) -> str:
    """YAML that `read_yaml` reads back to the same tree."""
    return yaml.dump(
        tree, None, _Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )


def _compose(text: str, where: str, lines: dict[Path_, int]) -> Any:
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            return None if node is None else _value(loader, node, (), lines, where)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{line}: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        at = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{where}:{at}: a control character, which YAML forbids") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply") from None


def _value(
    loader: _Loader, node: yaml.Node, path: Path_, lines: dict[Path_, int], where: str
) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, item in node.value:
            key = str(loader.construct_object(key_node, deep=True))
            here = key_node.start_mark.line + 1
            if key in found:
                raise ConfigError(f"{where}:{here}: {'.'.join((*path, key))} stands twice")
            lines[(*path, key)] = here
            found[key] = _value(loader, item, (*path, key), lines, where)
        return found
    if isinstance(node, yaml.SequenceNode):
        items = enumerate(node.value)
        return [_value(loader, item, (*path, str(i)), lines, where) for i, item in items]
    try:
        value = loader.construct_object(node)
    except ValueError as error:  # Python reads no number of more than 4,300 digits
        raise ConfigError(f"{where}:{line}: {error}") from None
    if value is not None and not isinstance(value, (str, int, float, bool)):
        raise ConfigError(f"{where}:{line}: {type(value).__name__} cannot stand in a recipe")
    return value


def merge(base: Any, patch: Any) -> Any:
    """`patch` over `base`: mappings deeply, lists whole; another part drops the old fields."""
    if isinstance(base, Mapping) and "name" in base and isinstance(patch, str):
        patch = {"name": patch}
    if not isinstance(base, Mapping) or not isinstance(patch, Mapping):
        return patch
    if "name" in base and patch.get("name", base["name"]) != base["name"]:
        return dict(patch)
    return {**base, **{key: merge(base.get(key), item) for key, item in patch.items()}}


def override(tree: Any, path: str, value: Any) -> Any:
    """`tree` with `value` at a dotted path (`layers.0.block.norm`: 0 is an index into a list)."""
    return _override(tree, path.split("."), value, ())


def _override(node: Any, keys: Sequence[str], value: Any, walked: Path_) -> Any:
    if not keys:
        return merge(node, value)
    here, key = ".".join(walked), keys[0]
    if isinstance(node, (list, tuple)):
        if not key.isdigit() or int(key) >= len(node):
            raise ConfigError(f"{here} has entries 0 to {len(node) - 1}, not '{key}'")
        index = int(key)
        inner = _override(node[index], keys[1:], value, (*walked, key))
        return [*node[:index], inner, *node[index + 1 :]]
    if isinstance(node, str) and walked:  # a bare name inside a layer's patch
        node = {"name": node}
    if node is None and walked:
        way = "write layers: [{repeat: 12}] first" if walked[-1] == "layers" else "set it first"
        raise ConfigError(f"{here} is not set; {way}")
    if not isinstance(node, Mapping):
        raise ConfigError(f"{here} is {node!r}: it has no field '{key}'")
    if key not in node:
        return {**node, key: _nest(keys[1:], value)}
    return {**node, key: _override(node[key], keys[1:], value, (*walked, key))}


def _nest(keys: Sequence[str], value: Any) -> Any:
    return {keys[0]: _nest(keys[1:], value)} if keys else value
