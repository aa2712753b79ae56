"""A series of numbers as text: prepare it, train on it, and let the model go on.

    python examples/timeseries.py [--steps 300] [--out DIR]

Two columns, a wave whose amplitude beats and its echo a few rows later, become two tokens a row.
The model reads the rows before a cut in the validation part and writes those after it. Its forecast
stands beside the simplest one, that all stays as it was in the last row, as mean absolute errors.
"""

import argparse
import csv
import math
import tempfile
from pathlib import Path

import numpy as np

import espalier as esp
from espalier.data.corpus import Corpus
from espalier.data.prepare import prepare
from espalier.data.request import Request
from espalier.data.sources.plugin.timeseries import Floats, numbers
from espalier.experiment import load
from espalier.fit import fit

ROWS, BINS, ECHO = 6000, 64, 5
PAST, AHEAD = 24, 16  # rows
RECIPE = {
    "model.n_layer": 2,
    "model.n_head": 4,
    "model.n_embd": 64,
    "model.block_size": 96,
    "data.batch_size": 16,
}


def write(file: Path) -> None:
    """A wave of 25 rows, more or less, whose amplitude beats, and its echo; it never repeats."""

    def wave(t: int) -> float:
        beat = 1 + 0.5 * math.sin(math.tau * t / (120 * math.sqrt(2)))
        return beat * math.sin(math.tau * t / (8 * math.pi))

    with file.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["time", "wave", "echo"])
        table.writerows([f"t{t}", f"{wave(t):.5f}", f"{wave(t - ECHO):.5f}"] for t in range(ROWS))


def train(corpus: Corpus, out: Path, steps: int) -> None:
    settings = RECIPE | {"train.max_iters": steps, "train.eval_interval": steps}
    overrides = [f"{path}={value}" for path, value in settings.items()]
    for _ in fit(load("demo", [f"data.corpus={corpus.path}", *overrides]), out):
        pass


def forecast(corpus: Corpus, out: Path, rows: int) -> tuple[Floats, Floats, Floats]:
    """The rows before a cut, the model's rows after it, and the true ones; [rows, columns]."""
    tokens = corpus.val.gather([0], 2 * (PAST + rows))[0]
    before, after = tokens[: 2 * PAST], tokens[2 * PAST :]
    past = corpus.tokenizer.decode(before)
    written = esp.load(out).generate(past, max_new_tokens=2 * rows, temperature=0)
    assert isinstance(written, str)
    source = corpus.meta["source"]
    text = written.removeprefix(past)
    return (
        numbers(past, source),
        numbers(text, source),
        numbers(corpus.tokenizer.decode(after), source),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        place = args.out or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        write(place / "series.csv")
        words = (str(place / "series.csv"), f"bins={BINS}")
        corpus = prepare(Request("timeseries", place / "corpus", more=words))
        print(f"{len(corpus.train):,} training tokens, {corpus.vocab_size} ids")
        train(corpus, place / "run", args.steps)
        past, found, true = forecast(corpus, place / "run", AHEAD)
    rows = min(len(found), len(true))
    if not rows:
        print("the model wrote no whole row: train it longer")
        return 0
    error = np.abs(found[:rows] - true[:rows]).mean()
    still = np.abs(past[-1] - true[:rows]).mean()
    print(f"{rows} rows ahead: error {error:.3f}; all staying as it was {still:.3f}")
    print("row  true wave  forecast")
    for row in range(rows):
        print(f"{row + 1:3d} {true[row, 0]:10.3f} {found[row, 0]:9.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
