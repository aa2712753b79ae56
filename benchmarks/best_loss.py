"""The best loss on tiny Shakespeare within a time, whole process.

    python benchmarks/best_loss.py TEXT shakespeare-150s 150 [--seeds 31 32 33 34 35]

TEXT is tiny Shakespeare. Seconds are wall time of the whole command: import of torch, checkpoint
and evaluation included. Losses are in fp32 over all of validation, in windows that do not overlap
and see nothing outside: of the recipe's own length, and of 64 tokens.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rounds import page
from table import Claim

from espalier.data.corpus import Corpus
from espalier.data.loader import windows
from espalier.evaluate.loss import score
from espalier.experiment import open_run

ESPALIER = (sys.executable, "-m", "espalier")


def trained(recipe: str, seed: int, folder: Path) -> float:
    """Seconds of the whole command."""
    start = time.perf_counter()
    subprocess.run(
        [*ESPALIER, "train", recipe, f"seed={seed}", "--out", f"{seed}"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - start


def at_64(run: Path, corpus: Path) -> float:
    validation = Corpus.open(corpus).val
    return score(open_run(run)[0], validation, windows(validation, 64), 64).loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("recipe")
    parser.add_argument("limit", type=float, help="seconds")
    parser.add_argument("--accept", default="", help="the loss to be accepted")
    parser.add_argument("--seeds", type=int, nargs="+", default=[31, 32, 33, 34, 35])
    wish = parser.parse_args()
    rows, seconds, losses = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = ("prepare", "shakespeare", "--from", str(wish.text.resolve()))
        command = [*ESPALIER, *source, "--out", "data/shakespeare"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        for seed in wish.seeds:
            seconds.append(trained(wish.recipe, seed, folder))
            run = folder / str(seed)
            found = json.loads((run / "results" / "train.json").read_text(encoding="utf-8"))
            losses.append(found["val_loss"])
            short = at_64(run, folder / "data" / "shakespeare")
            rows.append(f"| {seed} | {seconds[-1]:.1f} s | {losses[-1]:.4f} | {short:.4f} |")
    inside = sum(s <= wish.limit for s in seconds)
    page(
        wish.recipe,
        f"Tiny Shakespeare: best loss in {wish.limit:g} s on two cores",
        [
            (
                f"`python benchmarks/best_loss.py TEXT {wish.recipe} {wish.limit:g}`: "
                f"{inside} of {len(seconds)} seeds inside {wish.limit:g} s; validation loss "
                f"**{statistics.mean(losses):.4f}** (mean), {min(losses):.4f} to {max(losses):.4f}."
            ),
            "",
            "| seed | wall | validation loss | in windows of 64 |",
            "|---|---|---|---|",
            *rows,
        ],
        [
            Claim(
                f"best loss in {wish.limit:g} s, `{wish.recipe}`",
                "tiny Shakespeare, all of validation",
                f"{statistics.mean(losses):.4f}, {inside} of {len(losses)} seeds inside",
                wish.accept,
            )
        ],
    )


if __name__ == "__main__":
    main()
