"""Going on: what must be the same, what may differ, and what makes it less than exact."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from espalier import device as machine
from espalier.errors import UserError
from espalier.run import STATE

_FREE_TRAIN = (
    "max_iters target_tokens eval_interval save_interval log_interval keep eval_only "
    "always_save_checkpoint stop sample track compile checkpoint_activations noise_scale"
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


def surroundings(device: str) -> dict[str, Any]:
    """On what bit-for-bit equality depends, beside the configuration."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": machine.name(device),
    }
