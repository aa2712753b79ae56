"""Going on: what must be the same, what may differ, and what makes it less than exact."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from espalier import device as machine
from espalier.errors import UserError
from espalier.run import BASE, STATE
from espalier.train import checkpoint
from espalier.train.parallel.ranks import Ranks, here

_FREE_TRAIN = (
    "max_iters target_tokens eval_interval save_interval log_interval keep eval_only "
    "always_save_checkpoint stop sample track compile checkpoint_activations parallel "
    "noise_scale"
)
# What a later session may set otherwise; anything else would make it another experiment. A corpus
# may move: its hash is compared.
FREE = ("data.corpus", "evaluate", *(f"train.{key}" for key in _FREE_TRAIN.split()))


def refuse_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """UserError when a configuration differs in more than a resumed run may change."""
    wrong = [
        f"{path}: {was!r} -> {now!r}"
        for path, was, now in differences(old, new)
        if not any(path == free or path.startswith(f"{free}.") for free in FREE)
    ]
    if wrong:
        raise UserError(
            f"a resumed run cannot change {'; '.join(wrong[:3])}. "
            "Start another with train.init=RUN to begin from its weights"
        )


def differences(old: Any, new: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted paths at which two trees differ, with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from differences(old.get(key), new.get(key), f"{at}.{key}" if at else key)
    elif old != new:
        yield at, old, new


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The state.json of a checkpoint; UserError when training did not write it."""
    try:
        state = dict(json.loads((checkpoint / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        state = {}
    if not {"step", "sample", "random", "scale", "data"} <= set(state):
        raise UserError(
            f"{checkpoint} was not written by training: start from its weights with train.init"
        )
    return state


def refuse_others(
    state: Mapping[str, Any], fixed: Mapping[str, Any], corpus: Path, run: Path
) -> None:
    """UserError for a state of another corpus, or of other weights beside the adapters."""
    if state["data"] != fixed["data"]:
        raise UserError(
            f"{corpus} is not the corpus that {run} was trained on (its SHA-256 differs); point "
            "data.corpus at that one"
        )
    if state.get("base") != fixed.get("base"):
        raise UserError(f"{run / BASE} is not what step {state['step']} of it was trained on")


def surroundings(device: str) -> dict[str, Any]:
    """On what bit-for-bit equality depends, beside the configuration."""
    found = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": machine.name(device),
    }
    count = here().count
    return found if count == 1 else {**found, "ranks": count}


def changed(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each of the surroundings that is another than it was."""
    for key in dict.fromkeys([*now, *(["ranks"] if "ranks" in was else [])]):
        before, after = (known.get(key, 1 if key == "ranks" else None) for known in (was, now))
        if before != after:
            yield f"{key} is {after}, it was {before}: it goes on, not bit for bit"


def randomness(ranks: Ranks) -> dict[str, Any]:
    """Every global random generator, of the first rank and of the others, as JSON."""
    mine = checkpoint.randomness()
    if ranks.count == 1:
        return {"random": mine}
    first, *others = map(json.loads, ranks.texts(json.dumps(mine)))
    return {"random": first, "others": others}


def begin(ranks: Ranks, seed: int) -> None:
    """Seed what draws while training."""
    torch.manual_seed(_own_seed(seed, ranks.rank))


def restore(state: Mapping[str, Any], ranks: Ranks, seed: int) -> None:
    """Go on with this rank's random numbers; one more rank than there were begins a row of them."""
    others = state.get("others", [])
    if ranks.leads:
        checkpoint.restore(state["random"])
    elif ranks.rank <= len(others):
        checkpoint.restore(others[ranks.rank - 1])
    else:
        torch.manual_seed(_own_seed(seed, ranks.rank, state["step"]))


def _own_seed(seed: int, rank: int, step: int = 0) -> int:
    """A rank's own seed, so that no two drop the same; the first has one process' own."""
    if rank == 0:
        return seed
    digest = hashlib.sha256(f"{seed}/{rank}/{step}".encode()).digest()
    return int.from_bytes(digest[:4], "little")  # a CPU's generator looks at no more
