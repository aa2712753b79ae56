"""From the key press to the first training step, against torch's own import.

    python benchmarks/start_up.py [--rounds 9]

Seconds from starting the process to the line that tells of the first update, and for torch from
starting Python to the end of `import torch`; rounds alternate. The corpus is prepared, the kernels
are built, nothing is compiled, and no evaluation stands before the first step. The whole process
is shown too: two steps and an evaluation of eight windows for us, the import alone for torch.
"""

import argparse
import argparse as some_text
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rounds import page
from table import Claim

ACCEPT, AIM = 1.5, 0.5  # seconds above torch's import
IMPORT = [sys.executable, "-c", "import sys, torch; print('iter', file=sys.stderr)"]
RUN = [sys.executable, "-m", "espalier"]
TRAIN = [
    *("train", "shakespeare-char-cpu", "data.corpus=corpus", "train.max_iters=2"),
    *("train.log_interval=1", "evaluate.first=false", "evaluate.eval_iters=8"),
]


def seconds(command: list[str], folder: Path) -> tuple[float, float]:
    """Until the first line that begins with `iter`, and until the end."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    first = 0.0
    for line in process.stderr:
        if line.startswith("iter") and not first:
            first = time.perf_counter() - start
    if process.wait() or not first:
        raise SystemExit(f"{command} failed: exit {process.returncode}")
    return first, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    os.environ.pop("OMP_NUM_THREADS", None)
    torch, ours = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = str(some_text.__file__)
        prepare = [*RUN, "prepare", text, "--tokenizer", "char", "--out", "corpus"]
        subprocess.run(prepare, cwd=folder, check=True, capture_output=True)
        seconds([*RUN, *TRAIN, "--out", "warm"], folder)  # builds the kernels once
        for number in range(rounds):
            torch.append(seconds(IMPORT, folder))
            ours.append(seconds([*RUN, *TRAIN, "--out", f"run-{number}"], folder))
    above = statistics.median(b[0] - a[0] for a, b in zip(torch, ours, strict=True))
    rows = []
    for who, times in (("`import torch`", torch), ("`espalier train`", ours)):
        first, whole = zip(*times, strict=True)
        rows.append(
            f"| {who} | {statistics.median(first):.2f} s ({min(first):.2f} to {max(first):.2f}) | "
            f"{statistics.median(whole):.2f} s |"
        )
    page(
        "start_up",
        "From the key press to the first step",
        [
            (
                f"Above torch's own import: **{above:+.2f} s** (median of {rounds} rounds; "
                f"accepted {ACCEPT:+}, aimed at {AIM:+})."
            ),
            "",
            "| | ready, or first step | whole process |",
            "|---|---|---|",
            *rows,
        ],
        [
            Claim(
                "`espalier train`, key press to first step",
                "`import torch`",
                f"{above:+.2f} s",
                f"{ACCEPT:+} s",
            )
        ],
    )


if __name__ == "__main__":
    main()
