"""The house stands: imports point down, light modules stay light, nothing grows too long."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "espalier"

# From the ground up; a module imports only from lower layers, never from its neighbours.
LAYERS = [
    {"errors", "units", "starting", "dotenv", "intervals"},
    {"device", "tree", "lock", "durable", "catalog"},
    {"config", "provenance", "translate", "scaffold", "native"},
    {"nn", "data"},
    {"run", "cost", "pretrained"},
    {"train", "engine"},
    {"evaluate", "analyze", "compress", "export"},
    {"experiment"},
    {"api"},
    {"teaching", "initial"},
    {"fit", "timing"},
    {"study"},
    {"compare", "search", "report", "serve", "agent", "slow", "watch"},
    {"console"},  # so high because nothing below the commands speaks
    {"commands"},
    {"cli"},
    {"__main__", "__init__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# None of these imports torch, directly or through others, until a function runs.
LIGHT = (
    *("cli", "config", "console", "catalog", "device"),
    *("run", "report", "watch", "commands", "units"),
)

MOST_FUNCTION_LINES = 60
MOST_FILE_LINES = 400


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def modules() -> dict[str, Path]:
    return {module_name(file): file for file in sources()}


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Names of the modules that import statements load, the packages on the way included."""
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            words = name.split(".")
            yield from (".".join(words[:end]) for end in range(1, len(words) + 1))


def on_import(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: no function bodies, no TYPE_CHECKING blocks."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from on_import(child)


def layer(module: str) -> str:
    words = module.split(".")
    return words[1] if len(words) > 1 else "__init__"


@cache
def loads(module: str) -> frozenset[str]:
    """Everything that importing `module` imports, through others too."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if name in modules():
            waiting.extend(imported(on_import(tree(modules()[name]))))
    return frozenset(found)


def test_imports_point_down() -> None:
    wrong = []
    for module, file in modules().items():
        own = layer(module)
        assert own in RANK, f"espalier.{own} has no layer: give it one in {__file__}"
        for name in set(imported(ast.walk(tree(file)))) & set(modules()):
            other = layer(name)
            if other not in {own, "__init__"} and RANK[other] >= RANK[own]:
                wrong.append(f"{module} imports {name}")
    assert not wrong, "\n".join(sorted(wrong))


def test_no_two_modules_import_each_other_by_any_way_round() -> None:
    graph = {
        module: {
            name
            for name in imported(on_import(tree(file)))
            if name in modules() and not module.startswith(f"{name}.") and name != module
        }
        for module, file in modules().items()
    }
    circle = find_circle(graph)
    assert not circle, " -> ".join(circle)


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """One cycle of a directed graph, empty when there is none."""
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        found: list[str] = []
        for other in sorted(graph[name]):
            found = found or walk(other, [*trail, name])
        done.add(name)
        return found

    for name in graph:
        if circle := walk(name, []):
            return circle
    return []


def test_a_circle_is_found() -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_light_modules_do_not_import_torch() -> None:
    heavy = [name for name in modules() if layer(name) in LIGHT and "torch" in loads(name)]
    assert not heavy, "\n".join(f"{name}: {way_to_torch(name)}" for name in heavy)


def way_to_torch(module: str) -> str:
    """The chain of imports, for the message."""
    trail = [module]
    while trail[-1] in modules():
        names = sorted(imported(on_import(tree(modules()[trail[-1]]))))
        trail.append(next(n for n in names if "torch" in loads(n) and n not in trail))
    return " -> ".join(trail)


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function; a verb's docstring is its manual and not counted."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node) is None:
        return lines
    manual = node.body[0]
    return lines - ((manual.end_lineno or manual.lineno) - manual.lineno + 1)


@pytest.mark.parametrize("folder", ["espalier", "tests", "tools"])
def test_nothing_is_too_long(folder: str) -> None:
    long = []
    for file in sorted((ROOT / folder).rglob("*.py")):
        lines = file.read_text(encoding="utf-8").count("\n")
        if lines > MOST_FILE_LINES:
            long.append(f"{file}: {lines} lines")
        for node in ast.walk(tree(file)):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            if (size := length(node)) > MOST_FUNCTION_LINES:
                long.append(f"{file}:{node.lineno} {node.name}: {size} lines")
    assert not long, "\n".join(long)
