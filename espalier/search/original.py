"""ReaLLM-Forge's hyperparam_search.py in our terms: a flat baseline, and its program's flags."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from espalier.errors import ConfigError, nearest
from espalier.experiment import load
from espalier.search.space import EACH, LAYERS
from espalier.study import flags
from espalier.study.reading import Document
from espalier.tree import Path_, override, parse_value

LIST = "_layerlist"
BLOCK = "model.block."
# What has a size of its own in each layer where it stands for the whole model elsewhere.
IN_LAYERS = {"n_head": f"{BLOCK}attention.n_head"}
TARGETS = {"params": "parameters", "vram": "memory", "iter": "latency"}
MODES = {"dup_middle": "middle", "dup_each": "each"}


def is_ours(document: Document) -> bool:
    return bool({"recipe", "space"} & document.tree.keys())


def document(baseline: Document, words: Sequence[str]) -> tuple[Document, Path | None]:
    """Our search file for a flat baseline and the program's flags; and its --results_file.

    ConfigError names every flag and value that has no equal here.
    """
    said = _parser().parse_args(list(words))
    for text in said.override_cfg:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--override_cfg {text}: write KEY=VALUE")
        baseline.tree[key] = parse_value(value)
    draft, settings = _settings(baseline)
    first = int(settings.pop("seed", load(draft.recipe).seed))
    tree = {
        "recipe": draft.recipe,
        "seeds": [first + i for i in range(said.random_iterations)],
        "set": settings,
        "space": _space(baseline, said),
        "strategy": {
            "name": "greedy",
            "target": TARGETS[said.efficiency_target],
            "rounds": said.num_iterations,
            "reach": said.iterations,
            "duplicate": MODES[said.nlayer_dup_mode],
            "longer": said.max_iters_increase,
        },
        "trials": _most(baseline, said),
    }
    lines: dict[Path_, int] = {("set", path): _line(place) for path, place in draft.places.items()}
    return Document(tree, lines, baseline.file), said.results_file


def words(file: str, rest: Sequence[str]) -> tuple[str, list[str]]:
    """The baseline's file and the flags, where the program's own --orig_settings names the file."""
    every = [file, *rest]
    for index, word in enumerate(every):
        name, equals, value = word.partition("=")
        if name == "--orig_settings":
            last = index + (1 if equals else 2)
            return value or "".join(every[index + 1 : last]), [*every[:index], *every[last:]]
    return file, list(rest)


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The original's flags with their values, and overrides of ours."""
    ours = [word for word in words if "." in word.partition("=")[0] and "=" in word]
    return [word for word in words if word not in ours], ours


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"of hyperparam_search.py's flags: {message}")


def _parser() -> _Parser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--param_names", nargs="+", required=True)
    parser.add_argument("--increments", nargs="+", type=float, default=[1.0])
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument("--num_iterations", type=int, default=10)
    parser.add_argument("--random_iterations", type=int, default=1)
    parser.add_argument("--results_file", type=Path)
    parser.add_argument("--override_cfg", nargs="*", default=[])
    parser.add_argument("--max_iters_increase", type=int, default=0)
    parser.add_argument("--nlayer_dup_mode", choices=[*MODES], default="dup_middle")
    parser.add_argument("--efficiency_target", choices=[*TARGETS], default="params")
    parser.add_argument("--spawn_subprocess", action="store_true")  # here always
    return parser


def _settings(baseline: Document) -> tuple[Any, dict[str, Any]]:
    """The baseline in our paths: flags as in a sweep file, and lists as entries of layers."""
    lists = {key: value for key, value in baseline.tree.items() if key.endswith(LIST)}
    plain = {key: value for key, value in baseline.tree.items() if key not in lists}
    several = [key for key, value in plain.items() if isinstance(value, (list, dict))]
    if several:
        key = several[0]
        raise ConfigError(f"{baseline.at(key)}: {key} has several values; a baseline has one")
    (draft,) = flags.drafts([Document(plain, baseline.lines, baseline.file)])
    settings = dict(draft.settings)
    if lists:
        layers = int(settings["model.n_layer"])
        entries: Any = [{"repeat": 1, "block": {}} for _ in range(layers)]
        for key, values in lists.items():
            if not isinstance(values, list) or not values:
                raise ConfigError(f"{baseline.at(key)}: {key} takes a list")
            for i in range(layers):
                path, value = _in_layer(baseline, key, values[i % len(values)])
                entries = override(entries, f"{i}.{path}", value)
        settings[LAYERS] = entries
    return draft, settings


def _in_layer(baseline: Document, key: str, value: Any) -> tuple[str, Any]:
    """`block...` and the value, for an element of a list."""
    flag = key.removesuffix(LIST)
    try:
        ((path, ours),) = flags.pairs_of(flag, value)
    except (ConfigError, ValueError):
        raise ConfigError(f"{baseline.at(key)}: not translated: {key}") from None
    path = IN_LAYERS.get(flag, path)
    if not path.startswith(BLOCK):
        raise ConfigError(f"{baseline.at(key)}: {key}: {path} is one for all layers here")
    return path.removeprefix("model."), ours


def _space(baseline: Document, said: argparse.Namespace) -> dict[str, Any]:
    """Path -> its step; whole where the baseline's value is."""
    names, steps = said.param_names, said.increments
    if len(steps) == 1:
        steps = steps * len(names)
    if len(steps) != len(names):
        raise ConfigError(f"{len(names)} --param_names, but {len(steps)} --increments: one or all")
    found: dict[str, Any] = {}
    for name, step in zip(names, steps, strict=True):
        value = baseline.tree.get(name)
        if value is None:
            hint = nearest(name, baseline.tree)
            raise ConfigError(f"--param_names {name}: not in {baseline.file}.{hint}")
        if name.endswith(LIST):
            value = value[0]
            path = EACH + _in_layer(baseline, name, value)[0]
        else:
            ((path, _),) = flags.pairs_of(name, value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"--param_names {name}: {value!r} is no number to step from")
        whole = isinstance(value, int)
        found[path] = {"step": max(1, round(abs(step))) if whole else abs(step)}
    return found


def _most(baseline: Document, said: argparse.Namespace) -> int:
    """Configurations that its rounds can come to, whatever is chosen in them."""
    layers = int(baseline.tree.get("n_layer", flags.table().defaults["model.n_layer"]))
    rounds = int(said.num_iterations)
    layers += rounds  # a layer more in each
    each = {"n_layer": layers if MODES[said.nlayer_dup_mode] == "each" else 1}
    several = [
        layers * said.iterations if name.endswith(LIST) else each.get(name, said.iterations)
        for name in said.param_names
    ]
    return 1 + rounds * int(2 * sum(several) + bool(said.max_iters_increase))


def _line(place: str) -> int:
    """The line of a place such as `baseline.yaml:3`."""
    number = place.rpartition(":")[2]
    return int(number) if number.isdigit() else 1
