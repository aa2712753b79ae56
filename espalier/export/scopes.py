"""Which names of a statement mean something of its module: Python's scopes, by syntax trees."""

import ast
from collections.abc import Iterator

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
LOOPS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def globals_of(
    node: ast.AST, local: frozenset[str] = frozenset(), *, annotations: bool
) -> Iterator[ast.Name]:
    """Names below `node` that no scope between binds; with or without those in annotations."""
    if isinstance(node, ast.Name):
        if node.id not in local:
            yield node
        return
    inner = local
    if isinstance(node, FUNCTIONS):
        inner = local | arguments(node) | stored(node)
    elif isinstance(node, LOOPS):
        inner = local | {
            name.id
            for loop in node.generators
            for name in ast.walk(loop.target)
            if isinstance(name, ast.Name)
        }
    for field, child in children(node):
        if field in {"annotation", "returns"} and not annotations:
            continue
        outside = field in {"decorator_list", "returns", "args"}  # evaluated where a function is
        scope = local if outside and isinstance(node, FUNCTIONS) else inner
        for name in globals_of(child, scope, annotations=annotations):
            if not (isinstance(node, ast.ClassDef) and isinstance(name.ctx, ast.Store)):
                yield name


def children(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for field, value in ast.iter_fields(node):
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                yield field, item


def arguments(node: ast.AST) -> frozenset[str]:
    """The parameters of a function."""
    given = getattr(node, "args")  # noqa: B009 - of whichever kind of function
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return frozenset(argument.arg for argument in named if argument is not None)


def stored(node: ast.AST) -> frozenset[str]:
    """What a function binds itself; functions inside it have names of their own."""
    found: set[str] = set()
    waiting = [child for _, child in children(node)]
    while waiting:
        child = waiting.pop()
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            found.add(child.id)
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            found.add(child.name)
        if not isinstance(child, (*FUNCTIONS, *LOOPS, ast.ClassDef)):
            waiting += [below for _, below in children(child)]
    return frozenset(found)
