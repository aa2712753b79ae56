"""nanoGPT's and WiggleGPT's configuration in ours: flat keys, literals only, nothing is run."""

import ast
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from espalier.errors import ConfigError, nearest

Pairs = list[tuple[str, Any]]

_SAME = {
    "model": ("block_size", "n_layer", "n_head", "n_embd", "dropout", "bias", "vocab_size"),
    "data": ("batch_size",),
    "train": (
        "eval_interval",
        "log_interval",
        "eval_only",
        "always_save_checkpoint",
        "gradient_accumulation_steps",
        "learning_rate",
        "max_iters",
        "weight_decay",
        "grad_clip",
        "warmup_iters",
        "lr_decay_iters",
        "min_lr",
        "dtype",
    ),
    "train.optimizer": ("beta1", "beta2"),
    "evaluate": ("eval_iters",),
}
_PATHS = {key: f"{place}.{key}" for place, keys in _SAME.items() for key in keys} | {"seed": "seed"}

# What nanoGPT keeps in its configuration and we decide elsewhere, or by ourselves.
_ELSEWHERE = ("out_dir", "wandb_project", "wandb_run_name", "backend", "device")


def _schedule(decays: Any) -> Pairs:
    """Without decay nanoGPT warms up to nothing either: every update has the full rate."""
    if decays:
        return [("train.schedule", "cosine")]
    return [("train.schedule", "constant"), ("train.warmup_iters", 0), ("train.min_lr", 0.0)]


def _wandb(on: Any) -> Pairs:
    return [("train.track", ["wandb"] if on else [])]


def _init(source: Any) -> Pairs:
    if source == "scratch":
        return []
    if source == "resume":
        raise ConfigError("init_from=resume: write espalier train --resume RUN instead")
    return [("train.init", source)]


def _dataset(name: Any) -> Pairs:
    return [("data.corpus", f"data/{name}")]


def _compile(on: Any) -> Pairs:
    return [("train.compile", bool(on))]


def _bio(on: Any) -> Pairs:
    published = {"name": "wiggle", "compartments": 4, "threshold": 0.3}  # train_bio.py's own
    return [("model.block.ffn", published if on else "mlp")]


def _ffn(field: str) -> Callable[[Any], Pairs]:
    return lambda value: [(f"model.block.ffn.{field}", value)]


_RULES: dict[str, Callable[[Any], Pairs]] = {
    "decay_lr": _schedule,
    "wandb_log": _wandb,
    "init_from": _init,
    "dataset": _dataset,
    "compile": _compile,
    "use_bio_mlp": _bio,
    "bio_compartments": _ffn("compartments"),
    "bio_threshold": _ffn("threshold"),
}


def known() -> list[str]:
    return sorted([*_PATHS, *_RULES, *_ELSEWHERE])


def flag(key: str, value: Any, where: str) -> Pairs:
    """One nanoGPT key as `path, value` pairs; none for what is decided elsewhere."""
    if key in _PATHS:
        return [(_PATHS[key], value)]
    if key in _RULES:
        return _RULES[key](value)
    if key in _ELSEWHERE:
        return []
    raise ConfigError(f"{where}: unknown key '{key}'.{nearest(key, known())}")


def literal(text: str) -> Any:
    """nanoGPT's reading of a flag's value: a Python literal, or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text


def read(file: Path) -> Pairs:
    """The assignments of a nanoGPT config/*.py in order; arithmetic on literals is worked out."""
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{file}: cannot be read as assignments: {error}") from None
    values: dict[str, tuple[Any, int]] = {}
    for node in body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            continue  # nothing is run; what uses it must be a key we decide elsewhere
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            raise ConfigError(f"{file}:{node.lineno}: only `key = literal` is read, not code")
        key = node.targets[0].id
        if key not in _ELSEWHERE:
            seen = {name: value for name, (value, _) in values.items()}
            values[key] = (_work_out(node.value, seen, file), node.lineno)
    # the part before its fields; what decay_lr=False overrules before it
    order = sorted(
        values.items(), key=lambda item: (item[0] != "use_bio_mlp", item[0] == "decay_lr")
    )
    if not values.get("use_bio_mlp", (False, 0))[0]:
        order = [item for item in order if not item[0].startswith("bio_")]
    return [pair for key, (value, at) in order for pair in flag(key, value, f"{file}:{at}")]


_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
}


def _work_out(node: ast.expr, seen: dict[str, Any], file: Path) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in seen:
        return seen[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _work_out(node.operand, seen, file)
        if isinstance(value, (int, float)):
            return -value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = (_work_out(side, seen, file) for side in (node.left, node.right))
        if isinstance(left, (int, float)) and isinstance(right, (int, float)):
            try:
                return _OPERATORS[type(node.op)](left, right)
            except ArithmeticError as error:
                raise ConfigError(f"{file}:{node.lineno}: {error}") from None
    raise ConfigError(f"{file}:{node.lineno}: not a literal: {ast.unparse(node)}")


def out_dir(recipe: str, flags: Sequence[str]) -> Path | None:
    """Where nanoGPT would write: the last --out_dir=DIR, or else what a config/*.py says."""
    said = _said("out_dir", recipe, flags)
    return Path(said) if said else None


def resumed(recipe: str, flags: Sequence[str]) -> Path | None:
    """The run that init_from=resume means, which is what stands in out_dir; None for others."""
    if _said("init_from", recipe, flags) != "resume":
        return None
    return out_dir(recipe, flags)


def _said(key: str, recipe: str, flags: Sequence[str]) -> str | None:
    """The last --key=VALUE, or else what a config/*.py says."""
    said = [word.partition("=")[2] for word in flags if word.startswith(f"--{key}=")]
    if not said and recipe.endswith(".py"):
        try:
            body = ast.parse(Path(recipe).read_text(encoding="utf-8")).body
        except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
            return None  # `read` says what is wrong
        lines = [node for node in body if isinstance(node, ast.Assign)]
        named = [line for line in lines if ast.unparse(line.targets[0]) == key]
        said = [str(_work_out(line.value, {}, Path(recipe))) for line in named]
    return said[-1] if said else None
