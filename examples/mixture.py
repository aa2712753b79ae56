"""A run that goes over from one corpus to another, with the loss of each.

    python examples/mixture.py [--steps 200] [--out DIR]

Two corpora of eight letters: one says them forwards, one backwards. Training begins with the first
alone and ends with the second alone, and the validation losses cross. Both are in nats; guessing is
2.079, and knowing which corpus a window is from makes both nearly 0.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from espalier.config import decode
from espalier.data.prepare import prepare
from espalier.data.request import Request
from espalier.experiment import Experiment
from espalier.fit import fit
from espalier.run import Run

LETTERS = "abcdefgh"
SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 16}


def corpora(folder: Path) -> list[Path]:
    """The letters in a circle, forwards and backwards."""
    found = []
    for name, letters in (("forwards", LETTERS), ("backwards", LETTERS[::-1])):
        text = folder / f"{name}.txt"
        text.write_text(500 * letters, encoding="utf-8")
        prepare(Request(str(text), folder / name, tokenizer="char"))
        found.append(folder / name)
    return found


def plan(places: Sequence[Path], steps: int) -> Experiment:
    """From the first corpus alone to the second alone, between a third and two thirds."""
    first, second = map(str, places)
    mixture = [
        {"corpus": first, "weight": 1.0, "final": 0.0},
        {"corpus": second, "weight": 0.0, "final": 1.0},
    ]
    train = {
        "max_iters": steps,
        "gradient_accumulation_steps": 1,
        "learning_rate": 0.01,
        "warmup_iters": steps // 10,
        "eval_interval": max(1, steps // 10),
        "schedule": "constant",
    }
    transition = [steps // 3, 2 * steps // 3]
    data = {"mixture": mixture, "transition": transition, "batch_size": 8}
    return decode(Experiment, {"model": SIZES, "data": data, "train": train})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args(arguments)
    folder = args.out or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    for _ in fit(plan(corpora(folder), args.steps), folder / "run"):
        pass
    print(f"{'step':>5}{'forwards':>10}{'backwards':>11}")
    for record in Run.open(folder / "run").metrics():
        if record["kind"] == "eval":
            one, other = record["val_losses"].values()
            print(f"{record['step']:>5}{one:>10.3f}{other:>11.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
