"""An experiment before it runs: what `check` is asked, and what it will cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espalier.agent import facts
from espalier.errors import UserError
from espalier.run import Run

FINETUNE = "finetune"  # the recipe of train --init where none is named
PRUNING_STEP = 4096  # tokens of an update of prune's fine-tuning, or one window


@dataclass(frozen=True)
class Plan:
    """What a checked experiment will cost, and what the check told."""

    tokens: int
    step: int  # tokens of one update
    shown: Mapping[str, Any]


@dataclass(frozen=True)
class Wish:
    """A call of `train`, with the run's name settled."""

    values: Mapping[str, list[Any]]
    run: str
    check: list[str]
    before: Mapping[str, Any]  # what of the run was there already

    def plan(self, checked: Mapping[str, Any]) -> Plan:
        """The cost, by what `check --json` said."""
        training = checked["training"]
        shown = {
            "parameters": checked["parameters"]["total"],
            "tokens": training["tokens"],
            "flops": training["flops"],
            "hash": checked["hash"],
        }
        tokens = max(0, training["tokens"] - self.before["tokens"])
        return Plan(tokens, training["tokens_per_step"], shown)


def wish(study: Path, values: Mapping[str, list[Any]]) -> Wish:
    """UserError where the call names no experiment, or a run that is there already."""
    overrides = list(values.get("overrides", []))
    if "resume" in values:
        if "recipe" in values or "out" in values or "init" in values:
            raise UserError("resume goes on with a run as it is: give overrides alone")
        run = str(values["resume"][0])
        Run.open(study / run)
        before = {"there": True, "tokens": facts.trained(study, run)}
        return Wish(values, run, ["check", run, *overrides], before)
    run = str(values["out"][0]) if "out" in values else _free(study)
    if (study / run).exists():
        raise UserError(f"{run} is there already: take another name, or resume it")
    if "init" in values:
        check = _from_init(study, values, overrides)
    elif "recipe" in values:
        check = ["check", str(values["recipe"][0]), *overrides]
    else:
        raise UserError("train needs recipe, init or resume")
    return Wish({**values, "out": [run]}, run, check, {"there": False, "tokens": 0})


def pruning_tokens(study: Path, name: str, values: Mapping[str, list[Any]]) -> int:
    """The most that a call of `prune` can train on; 0 for other tools."""
    if name != "prune":
        return 0
    levels = 2 if "pattern" in values else 6
    if "levels" in values:
        levels = 1 + len(str(values["levels"][0]).split(","))
    steps = int(values.get("finetune_steps", [500])[0])
    blocks = [Run.open(study / one).config["model"]["block_size"] for one in values.get("runs", [])]
    return sum(levels * steps * max(PRUNING_STEP, block) for block in blocks)


def _free(study: Path) -> str:
    number = 1
    while (study / f"run-{number:02d}").exists():
        number += 1
    return f"run-{number:02d}"


def _from_init(study: Path, values: Mapping[str, list[Any]], overrides: list[str]) -> list[str]:
    """`check` takes no --init: the recipe with the model of the run it begins from."""
    source = str(values["init"][0])
    if not (study / source / "config.yaml").is_file():
        raise UserError(f"{source} is no run: the tool `import` makes one of it, to begin from")
    shape = json.dumps(Run.open(study / source).config["model"])
    recipe = str(values["recipe"][0]) if "recipe" in values else FINETUNE
    return ["check", recipe, f"model={shape}", *overrides]
