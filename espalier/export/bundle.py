"""One file out of many: the sources that a model is made of, in one namespace.

From the classes a model is made of, every definition they need is followed through the imports of
their modules; nothing is imported for it. Definitions come out as they were written; only names
that two modules share get a prefix. What belongs to Espalier alone (configuration, kernels) is
replaced by `standin`.
"""

import ast
import importlib.util
import sys
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from espalier.errors import UserError
from espalier.export.scopes import globals_of

STANDIN = "espalier.export.standin"
INSTEAD = {"espalier.config", "espalier.tree", "espalier.errors", "pydantic"}
ANNOTATIONS = {"__future__", "jaxtyping"}  # of no use where annotations are never evaluated
# Methods that no forward pass calls.
LEFT_OUT = {"removable", "describe", "settled"}

Symbol = tuple[str, str]
"""A module and a name that it defines."""


@dataclass
class Module:
    """A source file, taken apart."""

    name: str
    text: str
    tree: ast.Module
    defines: dict[str, ast.stmt] = field(default_factory=dict)
    imports: dict[str, Symbol | str] = field(default_factory=dict)
    """a symbol of a bundled module, or the name of one"""
    outside: dict[str, str] = field(default_factory=dict)
    """names from elsewhere, with the import statement that brings each"""

    @property
    def title(self) -> str:
        return (ast.get_docstring(self.tree) or "").partition("\n")[0]


class Bundle:
    """Everything that `roots` need, ready to be written."""

    def __init__(self, roots: Iterable[Symbol]) -> None:
        wanted = list(roots)
        self.own = {module.partition(".")[0] for module, _ in wanted} - {"torch"}
        self.symbols: dict[Symbol, None] = {}
        self.outside: dict[str, str] = {}
        self.attributes: set[Symbol] = set()  # used as `module.name`, where a local may have `name`
        while wanted:
            symbol = wanted.pop()
            if symbol not in self.symbols:
                self.symbols[symbol] = None
                wanted += self._needs(symbol)
        self.names = flat(self.symbols, self.outside, self.attributes)

    def name(self, kind: type) -> str:
        """What a class is called in the bundle."""
        return self.names[kind.__module__, kind.__name__]

    def source(self) -> str:
        """Imports, then the definitions, module by module, each after what it imports."""
        parts = ["\n".join(sorted(set(self.outside.values()), key=_import_order))]
        for module in self._order():
            mine = [stmt for name, stmt in module.defines.items() if (module.name, name) in self]
            head = f"# {module.name}: {module.title}".rstrip(": ")
            parts.append(
                "\n\n\n".join([head, *(self._text(module, stmt) for stmt in unique(mine))])
            )
        return "\n\n\n".join(parts) + "\n"

    def __contains__(self, symbol: Symbol) -> bool:
        return symbol in self.symbols

    def _needs(self, symbol: Symbol) -> Iterator[Symbol]:
        module = self._module(symbol[0])
        if symbol[1] not in module.defines:
            raise UserError(f"{symbol[0]} does not define {symbol[1]}: it cannot be exported")
        for node in globals_of(pruned(module.defines[symbol[1]]), annotations=False):
            found = self._resolve(module, node)
            if isinstance(found, tuple):
                if isinstance(module.imports.get(node.id), str):
                    self.attributes.add(found)
                yield found
            elif node.id in module.outside:
                self.outside[node.id] = module.outside[node.id]

    def _resolve(self, module: Module, node: ast.Name) -> Symbol | None:
        """The symbol that a name, or an attribute of an imported module, stands for."""
        if node.id in module.defines:
            return module.name, node.id
        found = module.imports.get(node.id)
        if isinstance(found, str):
            parent = getattr(node, "parent", None)
            assert isinstance(parent, ast.Attribute), f"{node.id} is a module, used as a value"
            return found, parent.attr
        return found

    def _module(self, name: str) -> Module:
        return parse(name, frozenset(self.own))

    def _order(self) -> list[Module]:
        done: dict[str, Module] = {}

        def visit(name: str) -> None:
            if name in done:
                return
            module = self._module(name)
            below = [i if isinstance(i, str) else i[0] for i in module.imports.values()]
            for other in below:
                if other != name and any(symbol[0] == other for symbol in self.symbols):
                    visit(other)
            done[name] = module

        for name, _ in self.symbols:
            visit(name)
        return list(done.values())

    def _text(self, module: Module, statement: ast.stmt) -> str:
        """A statement's source, comments above it included, with the names of the bundle."""
        lines = module.text.split("\n")
        edits = [
            edit
            for node in globals_of(statement, annotations=True)
            if (edit := self._edit(module, node))
        ]
        for name in _named(statement):
            new = self.names.get((module.name, name), name)
            if new != name and isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
                column = lines[statement.lineno - 1].index(name)
                edits.append((statement.lineno, column, column + len(name), new))
        for line, start, end, new in sorted(set(edits), reverse=True):
            row = lines[line - 1].encode()  # columns of syntax trees count bytes
            found = row[start:end].decode()
            if not found.replace(".", "").isidentifier():  # Python 3.11 misplaces f-strings' names
                raise UserError(f"{module.name}:{line}: '{found}' cannot be renamed to {new}")
            lines[line - 1] = (row[:start] + new.encode() + row[end:]).decode()
        cut = {n for part in left_out(statement) for n in range(_first(part), _last(part) + 1)}
        first = _first(statement)
        while first > 1 and lines[first - 2].startswith("#"):
            first -= 1
        kept = [lines[n - 1] for n in range(first, _last(statement) + 1) if n not in cut]
        return "\n".join(kept).rstrip().replace("\n\n\n", "\n\n")

    def _edit(self, module: Module, node: ast.Name) -> tuple[int, int, int, str] | None:
        target: ast.expr = node
        if isinstance(module.imports.get(node.id), str):
            parent = getattr(node, "parent", None)
            assert isinstance(parent, ast.Attribute)
            target = parent
        symbol = self._resolve(module, node)
        new = self.names.get(symbol) if symbol else None
        if new is None or (new == node.id and target is node):
            return None
        assert target.end_col_offset is not None
        return target.lineno, target.col_offset, target.end_col_offset, new


@cache
def parse(name: str, own: frozenset[str]) -> Module:
    """A module by name; `own` are the packages that are bundled."""
    file = _file(name)
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text, filename=str(file))
    module = Module(name, text, tree)
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.parent = node  # type: ignore[attr-defined]
    for statement in tree.body:
        for defined in _named(statement):
            module.defines[defined] = statement
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not _only_for_types(node):
            if isinstance(getattr(node, "parent", None), ast.FunctionDef):
                raise UserError(f"{file}:{node.lineno}: an import in a function cannot be exported")
            _import(module, node, own)
    return module


def _import(module: Module, node: ast.Import | ast.ImportFrom, own: frozenset[str]) -> None:
    source = node.module or "" if isinstance(node, ast.ImportFrom) else ""
    for alias in node.names:
        bound = alias.asname or alias.name
        if source in ANNOTATIONS:
            continue
        if source in INSTEAD:
            module.imports[bound] = (STANDIN, alias.name)
        elif source == "espalier.native":
            module.imports[bound] = (STANDIN, "NoKernel")
        elif source.partition(".")[0] in own:
            inner = f"{source}.{alias.name}"
            module.imports[bound] = inner if _is_module(inner) else (source, alias.name)
        else:
            line = ast.unparse(
                ast.ImportFrom(source, [alias], 0) if source else ast.Import([alias])
            )
            module.outside[bound.partition(".")[0]] = line


def flat(
    symbols: Iterable[Symbol], outside: Mapping[str, str], attributes: Container[Symbol]
) -> dict[Symbol, str]:
    """A name for each symbol, no two alike: its own, or with its folder, or folder and file.

    `attributes` do not keep their own.
    """
    found: dict[Symbol, str] = {}
    left = list(symbols)
    taken = set(outside)
    for words in (0, 1, 2):
        tried = {symbol: _prefixed(symbol, words) for symbol in left}
        count = Counter(tried.values())
        free = [s for s in left if words or s not in attributes]
        alone = [s for s in free if count[tried[s]] == 1 and tried[s] not in taken]
        found |= {symbol: tried[symbol] for symbol in alone}
        taken |= {tried[symbol] for symbol in alone}
        left = [symbol for symbol in left if symbol not in found]
    assert not left, f"no two names for {left}"
    return found


def _prefixed(symbol: Symbol, words: int) -> str:
    """`Learned` of espalier.nn.embed.learned: Learned, EmbedLearned, EmbedLearnedLearned."""
    module, name = symbol
    prefix = module.split(".")[-2:][:words]
    if not prefix:
        return name
    bare = name.lstrip("_")
    dashes = name[: len(name) - len(bare)]
    if bare.isupper():
        return dashes + "_".join([*(word.upper() for word in prefix), bare])
    if bare[0].isupper():
        camel = (part.title() for word in prefix for part in word.split("_"))
        return dashes + "".join([*camel, bare])
    return dashes + "_".join([*prefix, bare])


def pruned(statement: ast.stmt) -> ast.stmt:
    """A class without the methods that are left out."""
    if not isinstance(statement, ast.ClassDef):
        return statement
    gone = left_out(statement)
    kept = {**vars(statement), "body": [part for part in statement.body if part not in gone]}
    return ast.ClassDef(**kept)


def left_out(statement: ast.stmt) -> list[ast.stmt]:
    if not isinstance(statement, ast.ClassDef):
        return []
    return [
        part
        for part in statement.body
        if (isinstance(part, ast.FunctionDef) and part.name in LEFT_OUT)
        or (isinstance(part, ast.If) and "TYPE_CHECKING" in ast.unparse(part.test))
    ]


def unique(statements: Iterable[ast.stmt]) -> list[ast.stmt]:
    return list(dict.fromkeys(statements))


def _named(statement: ast.stmt) -> list[str]:
    """The names that a statement of a module defines."""
    if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
        return [statement.name]
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]


def _only_for_types(node: ast.AST) -> bool:
    """Does an import stand under `if TYPE_CHECKING`?"""
    above = getattr(node, "parent", None)
    return isinstance(above, ast.If) and "TYPE_CHECKING" in ast.unparse(above.test)


def _first(statement: ast.stmt) -> int:
    decorators = getattr(statement, "decorator_list", [])
    return int(min([statement.lineno, *(decorator.lineno for decorator in decorators)]))


def _last(statement: ast.stmt) -> int:
    assert statement.end_lineno is not None
    return statement.end_lineno


def _file(name: str) -> Path:
    loaded = sys.modules.get(name)
    place = getattr(loaded, "__file__", None)
    if place is None:
        spec = importlib.util.find_spec(name)
        place = spec.origin if spec else None
    if place is None:
        raise UserError(f"the source of {name} is not at hand: it cannot be exported")
    return Path(place)


@cache
def _is_module(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _import_order(line: str) -> tuple[bool, str]:
    return line.startswith("from "), line
