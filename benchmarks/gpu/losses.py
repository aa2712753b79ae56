"""How long until a loss, as anyone would get there: `espalier prepare` and `espalier train`."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.gpu.measure import Row, attempt
from benchmarks.gpu.scale import Place, Scale, Target
from espalier import experiment


def until(number: int) -> Callable[[Scale, Place], Iterator[Row]]:
    """The section for one of the scale's targets."""

    def section(scale: Scale, place: Place) -> Iterator[Row]:
        target = scale.targets[number]
        name = f"{target.recipe} to {target.loss}"
        if place.text is None:
            yield {"name": name, "ok": None, "why": "no text: --text tinyshakespeare.txt"}
        elif target.recipe not in experiment.shipped():
            yield {"name": name, "ok": None, "why": "no such recipe yet"}
        else:
            yield attempt(name, partial(_reach, target, scale.device, place))

    return section


def _reach(target: Target, device: str, place: Place) -> Row:
    assert place.text is not None
    corpus, run = place.work / f"corpus-{target.recipe}", place.work / target.recipe
    _espalier("prepare", str(place.text), "--tokenizer", "char", "--out", str(corpus))
    start = time.perf_counter()
    words = [f"data.corpus={corpus}", f"train.stop.val_loss={target.loss}", *target.overrides]
    _espalier("train", target.recipe, *words, "--out", str(run), "--device", device)
    wall = time.perf_counter() - start
    end = json.loads((run / "results" / "train.json").read_text(encoding="utf-8"))
    return {
        "ok": end["best_val_loss"] <= target.loss,
        "val_loss": end["best_val_loss"],
        "steps": end["step"],
        "process_s": wall,
        "training_s": end["seconds"],
        "ms": _pace(run),
    }


def _espalier(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "espalier", *words], check=True, capture_output=True)


def _pace(run: Path) -> float | None:
    """Milliseconds of a step at the end."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    told = [record["ms"] for line in lines if (record := json.loads(line))["kind"] == "train"]
    return told[-1] if told else None
