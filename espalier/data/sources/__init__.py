"""What `espalier prepare SOURCE` can read, found by its spelling."""

import glob
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from espalier.config import names
from espalier.data.download import Retry
from espalier.data.pieces import Source
from espalier.data.request import Request
from espalier.data.sources.builtin import BUILTINS
from espalier.data.sources.hub import Dataset, Stream
from espalier.data.sources.jsonl import JsonLines
from espalier.data.sources.parquet import Parquet
from espalier.data.sources.pictured import PageConfig
from espalier.data.sources.plugins import Documents, PluginConfig, configured, is_plugin
from espalier.data.sources.records import TEXT_KEY, Rule
from espalier.data.sources.several import Several
from espalier.data.sources.shakespeare import tiny_shakespeare
from espalier.data.sources.stdlib import python_stdlib
from espalier.data.sources.textfile import TextFiles
from espalier.data.tokenizer import Tokenizer
from espalier.errors import UserError, nearest

VAL_FRACTION = 0.1
STREAMED = "--fallback is for what is streamed: hf:ID or a built-in corpus"
NAMES = ("python-stdlib", "shakespeare", *BUILTINS)


class Plan(NamedTuple):
    """A source, and how it is prepared where the request leaves that open."""

    source: Source
    tokenizer: str
    val_fraction: float = VAL_FRACTION
    target_tokens: int | None = None
    tokens: int | None = None
    expected: str = ""
    own: Tokenizer | None = None
    """The source's own tokenizer, which `tokenizer` names then."""


def find(request: Request, note: Callable[[str], None], retry: Retry) -> Plan:
    """The plan for a request; UserError when there is no such source."""
    name = request.source
    if request.local is not None and name != "shakespeare":
        raise UserError("--from is for shakespeare; a file of your own is the SOURCE itself")
    if is_plugin(name):
        return _plugin(request)
    if request.more:
        return _several(request, note, retry)
    if name in {"", "hf:"}:
        raise UserError(f"say which source: a file, a folder, hf:ID, or {', '.join(NAMES)}")
    rule = Rule(request.text_key or TEXT_KEY, request.bad, request.errors)
    if name == "python-stdlib":
        return Plan(python_stdlib(), "bpe")
    if name == "shakespeare":
        return Plan(tiny_shakespeare(request.local, retry), "char")
    if request.fallback and not name.startswith("hf:") and name not in BUILTINS:
        raise UserError(STREAMED)
    if name in BUILTINS:
        entry = BUILTINS[name]
        rule = Rule(request.text_key or TEXT_KEY, request.bad, request.errors, entry.min_chars)
        others = tuple(_dataset(one) for one in request.fallback)
        midway = _midway(request)
        stream = Stream((*entry.datasets, *others), rule, note, retry, midway)
        return Plan(
            stream,
            entry.tokenizer,
            entry.val_fraction,
            entry.target_tokens,
            entry.tokens,
            entry.expected,
        )
    if name.startswith("hf:"):
        datasets = tuple(_dataset(one) for one in (name, *request.fallback))
        return Plan(Stream(datasets, rule, note, retry, _midway(request)), "gpt2")
    return Plan(_local(name, request, rule), "bpe")


def _plugin(request: Request) -> Plan:
    if request.fallback:
        raise UserError(STREAMED)
    plugin, files = configured(request.source, request.more)
    source = Documents(plugin, files, request.val_fraction or VAL_FRACTION)
    own = plugin.vocabulary(files) if request.tokenizer is None else None
    name = plugin.tokenizer if own is None else f"{plugin.name}'s own tokens"
    return Plan(source, name, own=own)


def _several(request: Request, note: Callable[[str], None], retry: Retry) -> Plan:
    """One corpus of several sources; their tokenizer where they agree on one, else bpe."""
    val_fraction = request.val_fraction or VAL_FRACTION
    plans = []
    for name in (request.source, *request.more):
        if is_plugin(name):
            raise UserError(f"{name} is a plug-in: prepare it alone, with its files behind it")
        found = find(replace(request, source=name, more=()), note, retry)
        if isinstance(found.source, TextFiles) and found.source.one:
            found = found._replace(source=found.source.divided([1 - val_fraction]))
        plans.append(found)
    wanted = {found.tokenizer for found in plans}
    members = tuple(found.source for found in plans)
    return Plan(Several(members), wanted.pop() if len(wanted) == 1 else "bpe")


def _dataset(name: str) -> Dataset:
    """Of hf:ID or hf:ID:CONFIG."""
    path, _, config = name.removeprefix("hf:").partition(":")
    if not name.startswith("hf:") or not path:
        raise UserError(f"--fallback takes hf:ID or hf:ID:CONFIG, got '{name}'")
    return Dataset(path, config or None)


def _midway(request: Request) -> Literal["stop", "next"]:
    """Who names other sources wants one of them when the first breaks off."""
    return "next" if request.fallback else "stop"


def _local(name: str, request: Request, rule: Rule) -> Source:
    path = Path(name)
    if path.is_dir():
        root, files = path, [file for file in path.rglob("*") if _visible(file, path)]
        _refuse_nested(path, request.out)
    elif path.is_file():
        root, files = path.parent, [path]
    elif glob.has_magic(name):
        files = [Path(found) for found in glob.glob(name, recursive=True)]
        files = [file for file in files if file.is_file()]
        root = Path(*_fixed_part(path))
    else:
        pages = [one.replace("_", "-") for one in names(PageConfig)]
        known = (*NAMES, *names(PluginConfig), *pages)
        hint = nearest(name, known)
        raise UserError(
            f"no source '{name}': neither a file or folder here nor a built-in name.{hint} "
            f"Built-in: {', '.join(known)}, hf:ID."
        )
    if not files:
        raise UserError(f"{name} matches no file")
    if request.out.resolve() in {file.resolve() for file in files}:
        raise UserError(f"--out {request.out} is the input itself: choose another directory")
    ordered = sorted(files, key=lambda file: file.relative_to(root).as_posix())
    return _by_kind(name, root, ordered, request, rule)


def _by_kind(name: str, root: Path, files: Sequence[Path], request: Request, rule: Rule) -> Source:
    kinds = {_kind(file) for file in files}
    if len(kinds) > 1:
        raise UserError(
            f"{name} holds {' and '.join(sorted(kinds))} files: choose one kind with a glob, "
            f"for example '{root}/**/*.txt'"
        )
    if kinds == {"jsonl"}:
        return JsonLines(tuple(files), rule)
    if kinds == {"parquet"}:
        return Parquet(tuple(files), rule)
    one = len(files) == 1
    facts = (("kind", "text" if one else "files"), ("name", files[0].name if one else root.name))
    return TextFiles(tuple(files), root, facts, request.errors, one)


def _kind(file: Path) -> str:
    name = file.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")):
        return "jsonl"
    return "parquet" if name.endswith(".parquet") else "text"


def _visible(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return not hidden and file.is_file()


def _fixed_part(path: Path) -> Sequence[str]:
    """The leading folders of a pattern that hold no wildcard."""
    fixed: list[str] = []
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return fixed


def _refuse_nested(folder: Path, out: Path) -> None:
    if out.resolve() == folder.resolve() or folder.resolve() in out.resolve().parents:
        raise UserError(f"--out {out} lies inside the input {folder}: choose another directory")
