"""Both stages of `deepseek-ocr-tiny` on 10 drawn images: does it read, or guess?

    python benchmarks/ocr_tiny.py [--seeds 1337 1 2]

For each seed the whole commands, import of torch included: stage 1 trains encoder and GPT, stage 2
takes its encoder, keeps SAM as it is and trains the rest with a fresh GPT. Then every one of the 10
images is read freely (greedy, to the letter), and the loss of its text is taken with its own image
and with the next one's. A model that only knows the ten texts has the same loss with both.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from rounds import page

from espalier import api
from espalier.data.corpus import Corpus
from espalier.data.loader import windows
from espalier.evaluate.loss import begin, nll, read_rows

SAMPLES = "11"  # of which one is held out, unread: ten images teach nobody to read
DRAWN = ["kinds=lines", "side=128", "lines=4", "questions=0"]
FREEZE = "train.freeze=[trunk.front.sam_model.*]"


class Taken(NamedTuple):
    """Seconds of a whole command."""

    wall: float
    busy: float
    """of all cores together"""


def run(folder: Path, *words: str) -> Taken:
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "espalier", *words]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(time.perf_counter() - start, busy)


@torch.no_grad()
def losses(place: Path, corpus: Path) -> tuple[float, float]:
    """Nats a token of the training texts, with their own images and with each other's."""
    loaded, found = api.load(place, device="cpu"), Corpus.open(corpus)
    found.seeing(loaded.config.data.images)
    size = loaded.config.model.block_size
    ids, targets, sight = read_rows(found.train, windows(found.train, size), size)
    assert sight is not None
    others = sight._replace(images=[*sight.images[1:], sight.images[0]])
    count = int((targets >= 0).sum())
    right, wrong = (
        float(nll(loaded.model, ids, targets, begin(loaded.model, ids, None, seen))) / count
        for seen in (sight, others)
    )
    return right, wrong


def stages(folder: Path, seed: int) -> list[tuple[str, Taken]]:
    """Both runs, and what each took."""
    given = ["train", "deepseek-ocr-tiny", "data.corpus=pages", f"seed={seed}", "--device", "cpu"]
    first = run(folder, *given, "--out", f"one-{seed}")
    taken = [f"train.init_front=one-{seed}", FREEZE, "train.max_iters=250"]
    second = run(folder, *given, *taken, "--out", f"two-{seed}")
    return [(f"one-{seed}", first), (f"two-{seed}", second)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1337])
    load = os.getloadavg()[0]
    lines = [
        f"When this began, {load:.1f} processes wanted the machine. Processor: seconds of all",
        "cores together; where nothing else runs, wall is about that.",
        "",
        "| seed, stage | wall | processor | to the letter | loss | with another's image | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(folder, "prepare", "synthetic-ocr", "--samples", SAMPLES, *DRAWN, "--out", "pages")
        for seed in parser.parse_args().seeds:
            done = stages(folder, seed)
            for stage, (place, took) in enumerate(done, 1):
                result = folder / place / "results" / "exact.json"
                right, asked = json.loads(result.read_text("utf-8"))["train"]
                own, other = losses(folder / place, folder / "pages")
                lines.append(
                    f"| {seed}, {stage} | {took.wall:.1f} s | {took.busy:.1f} s | "
                    f"{right} of {asked} | {own:.5f} | {other:.3f} | {other / own:.0f} |"
                )
            wall, busy = (sum(column) for column in zip(*(t for _, t in done), strict=True))
            lines.append(f"| {seed}, both | {wall:.1f} s | {busy:.1f} s | | | | |")
    page("ocr_tiny", "Reading ten images: two stages on a CPU", lines)


if __name__ == "__main__":
    main()
