"""A row for each run below a directory, from its texts and headers; no weight is read, no torch.

What is unfinished or broken is a row too, and says so in `status`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from espalier import lock
from espalier.errors import UserError
from espalier.run import MANIFEST, STATE, Run, weights_count, weights_digest

COLUMNS: Mapping[str, str] = {
    "run": "its directory",
    "status": "finished, running, unfinished, no checkpoint, or what is broken",
    "best_loss": "lowest validation loss",
    "best_step": "where it was",
    "loss": "newest validation loss",
    "step": "newest checkpoint, or newest record without one",
    "nans": "updates skipped because loss or gradient was not finite",
    "nan_step": "the first record without a finite loss",
    "parameters": "as the run recorded them, or by the headers of its newest weights",
    "recipe": "what it was trained from",
    "config": "digest of its configuration",
    "weights": "digest of its newest weights",
    "seconds": "of training",
    "time": "when it was made",
}
Row = dict[str, Any]


def table(folder: Path) -> list[Row]:
    """Every run at or below `folder`, by path. UserError where there is no folder or no run."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no directory")
    found = [row(place, folder) for place in runs(folder)]
    if not found:
        raise UserError(f"no run at or below {folder}: none holds a config.yaml")
    return found


def runs(folder: Path) -> Iterator[Path]:
    """Directories with a config.yaml; nothing inside of one is looked at."""
    for place, below, files in os.walk(folder):
        below.sort()
        if "config.yaml" in files:
            below.clear()
            yield Path(place)


def row(place: Path, root: Path) -> Row:
    """One run; a field that nobody knows is None."""
    found: Row = dict.fromkeys(COLUMNS)
    found["run"] = str(place.relative_to(root)) if place != root else place.name
    try:
        run = Run.open(place)
        found["config"] = digest(run.config)
        found |= _origin(run)
        found |= _progress(run)
        found |= _newest(run, found)
        found["status"] = _status(run)
    except (UserError, OSError, ValueError, TypeError, KeyError) as error:
        found["status"] = f"broken: {str(error).splitlines()[0] if str(error) else error!r}"
    return found


def digest(config: Mapping[str, Any]) -> str:
    """`espalier.config.digest` of a configuration as its file has it."""
    text = json.dumps(config, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


def _origin(run: Run) -> Row:
    about = run.environment
    words = [str(word) for word in about.get("argv", [])]
    after = words[words.index("train") + 1 :] if "train" in words else []
    recipe = next((w for w in after if "=" not in w and not w.startswith("-")), None)
    parent = about.get("parent")
    if recipe is None and isinstance(parent, dict):
        recipe = f"from {Path(str(parent.get('run', '?'))).name}"
    return {"recipe": recipe, "time": about.get("time")}


def _progress(run: Run) -> Row:
    """What metrics.jsonl and results/train.json say."""
    records = run.metrics()
    evals = [
        (r["val_loss"], r["step"])
        for r in records
        if r["kind"] == "eval" and _number(r.get("val_loss"))
    ]
    lost = [r["step"] for r in records if r["kind"] == "train" and not _number(r.get("loss"))]
    best = min(evals, default=(None, None))
    summary = _json(run.path / "results" / "train.json")
    return {
        "best_loss": best[0],
        "best_step": best[1],
        "loss": evals[-1][0] if evals else None,
        "step": max((r["step"] for r in records), default=None),
        "nans": max(len(lost), summary.get("skipped_updates", 0)),
        "nan_step": lost[0] if lost else None,
        "parameters": summary.get("parameters"),
        "seconds": summary.get("seconds"),
    }


def _newest(run: Run, known: Row) -> Row:
    """What the newest checkpoint's headers add to what is known, as far as it can be read."""
    if not run.steps():
        return {}
    folder = run.checkpoint(run.steps()[-1])
    state = _json(folder / STATE)
    found: Row = {"step": run.steps()[-1], "nans": max(known["nans"], state.get("skipped", 0))}
    if (weights := weights_digest(folder)) is not None:
        found["weights"] = weights[:12]
    if known["parameters"] is None:
        found["parameters"] = weights_count(folder)
    if known["seconds"] is None:
        found["seconds"] = state.get("seconds")
    return found


def _status(run: Run) -> str:
    if lock.owner_of(run.path / "lock") is not None:
        return "running"
    if not run.steps():
        return "no checkpoint"
    folder = run.checkpoint(run.steps()[-1])
    files = _json(folder / MANIFEST).get("files", {})
    if not files or not all((folder / name).is_file() for name in files):
        return f"broken: {folder.name} is not complete"
    made = (run.path / "metrics.jsonl").exists()
    return (
        "finished" if (run.path / "results" / "train.json").exists() or not made else "unfinished"
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
