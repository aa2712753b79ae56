"""Does a small model read words it has never seen, and better the more images it was trained on?

    python benchmarks/ocr_reading.py [UPDATES]

`deepseek-ocr-lines` is trained on 100, 300 and 900 drawn images of four lines, a word and a number
each, for the same number of updates; then each model reads the same 100 images, whose words stand
in no training image. No network; ten minutes on a quiet machine.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rounds import page

IMAGES = (100, 300, 900)
HELD = 0.1  # of all images, and of all words


def espalier(*words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "espalier", *words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def corpus(place: Path, images: int) -> str:
    """So many images of training; the words held out are the same for every number."""
    out = str(place / f"lines-{images}")
    drawn = ["kinds=lines", "side=256", "lines=4", "questions=0"]
    number = str(round(images / (1 - HELD)))
    espalier("prepare", "synthetic-ocr", "--samples", number, *drawn, "--out", out)
    return out


def main() -> int:
    updates = sys.argv[1] if len(sys.argv) > 1 else "2000"
    head = (
        "images | loss of held-out answers | with another's image | CER | WER | exact | parameters"
    )
    lines = [f"| {head} |", "|---|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        corpora = {images: corpus(place, images) for images in IMAGES}
        for images, text in corpora.items():
            run = str(place / f"run-{images}")
            every = f"train.eval_interval={updates}"
            what = [f"data.corpus={text}", f"train.max_iters={updates}", every]
            trained = espalier("train", "deepseek-ocr-lines", *what, "--out", run)
            told = espalier("evaluate", run, "--ocr", "--corpus", corpora[IMAGES[-1]])
            found = told["models"][run]["ocr"][corpora[IMAGES[-1]]]
            lines.append(row(images, found, trained["parameters"]))
    lines += [
        "",
        f"{updates} updates of 10 images each, seed of the recipe; 95 % by bootstrap over pages.",
    ]
    page("ocr_reading", "Reading unseen words, by the number of images", lines)
    return 0


def row(images: int, found: dict[str, Any], parameters: int) -> str:
    rates = " | ".join(spread(found[key]) for key in ("cer", "wer", "exact"))
    losses = " | ".join(f"{found[key]['mean']:.3f}" for key in ("loss", "wrong_image"))
    return f"| {images} | {losses} | {rates} | {parameters:,} |"


def spread(interval: dict[str, float]) -> str:
    return f"{interval['mean']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"


if __name__ == "__main__":
    sys.exit(main())
