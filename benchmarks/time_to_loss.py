"""Whole process to a loss on tiny Shakespeare: `shakespeare-fast` against nanoGPT's CPU run.

    python benchmarks/time_to_loss.py TEXT NANOGPT_CHECKOUT [--seeds 21 22 23 24 25] [--peers 2]

TEXT is tiny Shakespeare. Times are wall seconds of the whole command, import of torch included,
runs alternating; losses are over all of validation in windows of 64 tokens that do not overlap and
see nothing outside, in fp32. nanoGPT's run is its README's for a CPU: 2,000 steps, which give 1.898
measured in this way.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rounds import page
from table import Claim

PEER = [
    "train.py",
    "config/train_shakespeare_char.py",
    "--device=cpu",
    "--compile=False",
    "--eval_iters=20",
    "--log_interval=1",
    "--block_size=64",
    "--batch_size=12",
    "--n_layer=4",
    "--n_head=4",
    "--n_embd=128",
    "--max_iters=2000",
    "--lr_decay_iters=2000",
    "--dropout=0.0",
]


def seconds(command: list[str], folder: Path) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


def peer(checkout: Path, text: Path, folder: Path) -> Path:
    """A copy of the checkout with its own preparation of the text done."""
    place = folder / "nanogpt"
    shutil.copytree(checkout, place, ignore=shutil.ignore_patterns(".git"))
    data = place / "data" / "shakespeare_char"
    shutil.copy(text, data / "input.txt")
    subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True, capture_output=True)
    return place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23, 24, 25])
    parser.add_argument("--peers", type=int, default=2, help="runs of nanoGPT")
    wish = parser.parse_args()
    espalier = [sys.executable, "-m", "espalier"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = peer(wish.checkout.resolve(), wish.text, folder)
        prepare = [*espalier, "prepare", "shakespeare", "--from", str(wish.text.resolve())]
        subprocess.run(
            [*prepare, "--out", "data/shakespeare"], cwd=folder, check=True, capture_output=True
        )
        run = [*espalier, "train", "shakespeare-fast"]
        seconds([*run, "train.max_iters=2", "--out", "warm"], folder)  # builds the kernels once
        theirs, ours, losses = [], [], []
        for number, seed in enumerate(wish.seeds):
            if number < wish.peers:
                theirs.append(seconds([sys.executable, *PEER], place))
            ours.append(seconds([*run, f"seed={seed}", "--out", f"run-{seed}"], folder))
            result = (folder / f"run-{seed}" / "results" / "train.json").read_text("utf-8")
            losses.append(json.loads(result)["val_loss"])
    middle, other = statistics.median(ours), statistics.median(theirs)
    rows = [
        f"| {s} | {t:.2f} s | {v:.4f} |" for s, t, v in zip(wish.seeds, ours, losses, strict=True)
    ]
    page(
        "time_to_loss",
        "Tiny Shakespeare: whole process to full-validation loss",
        [
            (
                f"nanoGPT's CPU run: {', '.join(f'{t:.1f}' for t in theirs)} s. "
                f"`shakespeare-fast`: median {middle:.2f} s, **{other / middle:.1f}x** faster; "
                f"{sum(v <= 1.88 for v in losses)} of {len(losses)} seeds at 1.88 or below."
            ),
            "",
            "| seed | wall | validation loss |",
            "|---|---|---|",
            *rows,
        ],
        [
            Claim(
                "tiny Shakespeare to 1.88, whole process",
                "nanoGPT's CPU run (1.898)",
                f"{other / middle:.1f}x, {middle:.1f} s",
                "10x",
            )
        ],
    )


if __name__ == "__main__":
    main()
