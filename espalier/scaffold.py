"""A part of one's own begins as a renamed copy of one that works, with a test beside it."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from espalier import catalog
from espalier.errors import UserError, nearest

TEST = '''"""The contract suite holds {name} to its slot's laws; here stand its own numbers."""

from {module} import {config}


def test_{name}_is_found_by_its_name() -> None:
    assert {config}().name == "{name}"


# Next: build it, feed it numbers small enough to work by hand, and compare.
'''
OUTSIDE = '''"""What {name} does that no other part does, with numbers worked by hand."""

from espalier.config import resolve
from {home} import {base}


def test_{name}_is_found_by_its_path() -> None:
    assert resolve({base}, "./{name}.py").__name__ == "{config}"
'''


@dataclass(frozen=True)
class Begun:
    """What was written, from what, and the override that uses it."""

    files: tuple[Path, ...]
    like: str
    use: str


def begin(slot: catalog.Slot, name: str, like: str | None, here: Path) -> Begun:
    """Write the part and its test: into the package in a checkout, else into the folder `here`."""
    source = _model(slot, like)
    renames = _renames(slot, source, name)
    config = renames[catalog.config_class(catalog.parse(source), slot).name]
    root = catalog.PACKAGE.parent
    if in_checkout(root):
        part = slot.folder / f"{name}.py"
        inside = part.relative_to(root).with_suffix("")
        test = root / "tests" / inside.relative_to("espalier").parent / f"test_{name}.py"
        words = TEST.format(name=name, module=".".join(inside.parts), config=config)
        value = name
    else:
        part, test, value = here / f"{name}.py", here / f"test_{name}.py", f"./{name}.py"
        home = ".".join(slot.home.relative_to(root).with_suffix("").parts)
        words = OUTSIDE.format(name=name, home=home, base=slot.base, config=config)
    for file in (part, test):
        if file.exists():
            raise UserError(f"{file} is there already")
    test.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(_copy(source, renames, name), encoding="utf-8")
    test.write_text(words, encoding="utf-8")
    return Begun((part, test), source.stem, f"{_path(slot)}={value}")


def in_checkout(root: Path) -> bool:
    return (root / "pyproject.toml").exists()


def _model(slot: catalog.Slot, like: str | None) -> Path:
    known = {file.stem: file for file in catalog.part_files(slot)}
    if like is None:
        return min(known.values(), key=lambda file: len(file.read_text(encoding="utf-8")))
    if like not in known:
        raise UserError(f"no {slot.name} named '{like}'.{nearest(like, known)}")
    return known[like]


def _renames(slot: catalog.Slot, source: Path, name: str) -> dict[str, str]:
    """Old class name -> new, for the configuration and what else is named after the part."""
    words = "".join(word.capitalize() for word in name.split("_"))
    config = catalog.config_class(catalog.parse(source), slot).name
    old = config.removesuffix("Config")
    defined = [node.name for node in catalog.parse(source).body if isinstance(node, ast.ClassDef)]
    return {item: item.replace(old, words, 1) for item in defined if item.startswith(old)}


def _copy(source: Path, renames: dict[str, str], name: str) -> str:
    text = source.read_text(encoding="utf-8")
    for old, new in renames.items():
        text = re.sub(rf"\b{old}\b", new, text)
    opening = f'"""{name}: what it computes, and where that comes from. Began as {source.stem}."""'
    return re.sub(r'\A""".*?"""', lambda _: opening, text, flags=re.DOTALL)


def _path(slot: catalog.Slot) -> str:
    """Where a recipe names a part of this slot (the first place, where there are several)."""
    paths = {
        "block": "model.block",
        "norm": "model.block.norm",
        "attention": "model.block.attention",
        "score": "model.block.attention.score",
        "ffn": "model.block.ffn",
        "activation": "model.block.ffn.activation",
        "linear": "model.block.ffn.linear",
    }
    family = slot.folder.parent.name
    return paths.get(slot.name, f"{'model' if family == 'nn' else family}.{slot.name}")
