"""What the package offers, read from syntax trees; nothing is imported, least of all torch."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from espalier.errors import UserError, nearest

PACKAGE = Path(__file__).parent
RECIPES = PACKAGE / "recipes"


@dataclass(frozen=True)
class Slot:
    """A folder of parts, bound to a configuration class by `class NormConfig(..., slot="...")`."""

    name: str
    base: str  # the configuration class
    home: Path  # the file of that class
    folder: Path
    summary: str


@dataclass(frozen=True)
class Setting:
    name: str
    kind: str
    default: str
    summary: str = ""


@dataclass(frozen=True)
class Part:
    name: str
    summary: str  # the first line of the file
    formula: str  # the docstring of its configuration
    papers: tuple[str, ...] = ()  # arXiv numbers that its docstrings name
    settings: tuple[Setting, ...] = field(default=())


def slots() -> dict[str, Slot]:
    """Every slot of the package, by name."""
    found = [slot for file in sorted(PACKAGE.rglob("*.py")) for slot in _slots_in(file)]
    return {slot.name: slot for slot in found}


def slot(name: str) -> Slot:
    known = slots()
    if name not in known:
        raise UserError(f"no slot named '{name}'.{nearest(name, known)} Known: {', '.join(known)}.")
    return known[name]


def parts(slot: Slot) -> list[Part]:
    """The parts of a slot, sorted by name."""
    return [part(slot, file) for file in part_files(slot)]


def part_files(slot: Slot) -> list[Path]:
    return sorted(file for file in slot.folder.glob("*.py") if not file.name.startswith("_"))


def part(slot: Slot, file: Path) -> Part:
    tree = parse(file)
    config = config_class(tree, slot)
    formula = " ".join((ast.get_docstring(config) or "").split())
    cited = re.findall(r"\b\d{4}\.\d{4,5}\b", f"{ast.get_docstring(tree)} {formula}")
    return Part(
        file.stem,
        _first_line(tree),
        formula,
        tuple(dict.fromkeys(cited)),
        tuple(setting for node in _bases(tree, config) for setting in _settings(node)),
    )


def _bases(tree: ast.Module, config: ast.ClassDef) -> list[ast.ClassDef]:
    """A configuration after those of the same package that it takes fields from."""
    places = {
        alias.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("espalier.nn.")
        for alias in node.names
    }
    found = []
    for base in map(ast.unparse, config.bases):
        file = PACKAGE.parent.joinpath(*str(places.get(base)).split(".")).with_suffix(".py")
        where = parse(file) if base in places and not base.endswith("Config") else tree
        found += [
            inner
            for node in where.body
            if isinstance(node, ast.ClassDef) and node.name == base
            for inner in _bases(where, node)
        ]
    return [*found, config]


def config_class(tree: ast.Module, slot: Slot) -> ast.ClassDef:
    """The one class of a part's file that extends the slot's configuration."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and slot.base in map(ast.unparse, node.bases):
            return node
    raise UserError(f"a part of {slot.name} must define a class that extends {slot.base}")


def recipes() -> dict[str, str]:
    """Shipped recipe -> the first line of its header."""
    return {file.stem: _header(file) for file in sorted(RECIPES.glob("*.yaml"))}


def _slots_in(file: Path) -> Iterator[Slot]:
    text = file.read_text(encoding="utf-8")
    if 'slot="espalier.' not in text:  # parsing every file would take longer than all the rest
        return
    for node in ast.parse(text).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for word in node.keywords:
            if word.arg == "slot" and isinstance(word.value, ast.Constant):
                folder = PACKAGE.parent.joinpath(*str(word.value.value).split("."))
                yield Slot(folder.name, node.name, file, folder, _first_line(node))


def _settings(config: ast.ClassDef) -> Iterator[Setting]:
    for node, after in zip(config.body, [*config.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            kind = ast.unparse(node.annotation)
            if not kind.startswith("ClassVar"):
                yield Setting(node.target.id, kind, _default(node.value), _string(after))


def _default(value: ast.expr | None) -> str:
    """The default as a recipe would write it; empty when there is none."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) not in {"Field", "default"}:
        fields = [f"{word.arg}: {_default(word.value)}" for word in value.keywords]
        return "{" + ", ".join(fields) + "}"
    if isinstance(value, ast.Call):
        given = {word.arg: word.value for word in value.keywords}
        value = value.args[0] if value.args else given.get("default")
    if value is None:
        return ""
    if isinstance(value, ast.Constant):
        words = {None: "null", True: "true", False: "false"}
        if value.value is None or isinstance(value.value, bool):
            return words[value.value]
        return str(value.value)
    return ast.unparse(value)


def _string(node: ast.stmt | None) -> str:
    """An attribute's docstring, on one line."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return " ".join(str(node.value.value).split())
    return ""


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def _first_line(node: ast.Module | ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]


def _header(file: Path) -> str:
    found = re.match(r"#\s*(.+)", file.read_text(encoding="utf-8"))
    return found[1].strip() if found else ""
