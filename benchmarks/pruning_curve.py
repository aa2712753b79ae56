"""Pruning curves of several recipes over seeds: the same text, data order, rule and levels for all.

    python benchmarks/pruning_curve.py CORPUS biogpt-small biogpt-small-iso-params --seeds 1 2 3 \
        --method magnitude --finetune-steps 500 -- train.max_iters=2000

Trains each recipe with each seed into --out (what is there already is not done again), prunes it
by `espalier prune`, and writes the charts and a table of means over seeds. What follows `--` goes
to `espalier train`.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rounds import RESULTS, page

from espalier.report import pruning

Level = dict[str, Any]


def trained(recipe: str, seed: int, wish: argparse.Namespace) -> Path:
    """The run, made or gone on with."""
    place = Path(wish.out) / f"{Path(recipe).stem}-{seed}"
    if (place / "results" / "train.json").is_file():
        return place
    begun = (place / "config.yaml").is_file()
    words = (
        ["--resume", str(place)] if begun else [recipe, *overrides(seed, wish), "--out", str(place)]
    )
    subprocess.run([sys.executable, "-m", "espalier", "train", *words], check=True)
    return place


def overrides(seed: int, wish: argparse.Namespace) -> list[str]:
    return [f"data.corpus={wish.corpus}", f"seed={seed}", *wish.overrides]


def pruned(run: Path, wish: argparse.Namespace) -> Level:
    """The curve, from the run's own file."""
    words = ["--levels", wish.levels, "--method", wish.method]
    words += ["--finetune-steps", str(wish.finetune_steps)]
    done = subprocess.run(
        [sys.executable, "-m", "espalier", "prune", str(run), *words, "--json"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    curve: Level = json.loads(done.stdout)["runs"][str(run)]
    return curve


def mean(curves: Sequence[Level]) -> Level:
    """One curve of the means over seeds; its intervals run from the lowest seed to the highest."""
    levels = [together([c["levels"][i] for c in curves]) for i in range(len(curves[0]["levels"]))]
    return {"settings": curves[0]["settings"], "levels": levels}


def together(levels: Sequence[Level]) -> Level:
    losses = [level["loss"]["mean"] for level in levels]
    middle = statistics.mean(losses)
    ratios = [level["speed"]["decode"]["ratio"] for level in levels if "speed" in level]
    return {
        **levels[0],
        "sparsity": statistics.mean(level["sparsity"] for level in levels),
        "parameters": {
            key: round(statistics.mean(level["parameters"][key] for level in levels))
            for key in levels[0]["parameters"]
        },
        "loss": {"mean": middle, "low": min(losses), "high": max(losses)},
        "change": statistics.mean(level["change"]["mean"] for level in levels),
        "decode": statistics.median(ratios) if ratios else None,
    }


def rows(name: str, curve: Level) -> list[str]:
    return [
        f"| {name} | {one['level']:g} | {100 * one['sparsity']:.1f} | "
        f"{one['parameters']['nonzero']:,} | {one['flops_per_token']['skipping_zeros']:,} | "
        f"{one['loss']['mean']:.4f} ({one['loss']['low']:.4f} to {one['loss']['high']:.4f}) | "
        f"{one['change']:+.4f} | {one['decode']:.2f} |"
        for one in curve["levels"]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--levels", default="0,25,45,70,90")
    parser.add_argument("--method", default="magnitude")
    parser.add_argument("--finetune-steps", type=int, default=500)
    parser.add_argument("--out", default="runs/pruning-curve")
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    wish = parser.parse_args(words[:end])
    wish.overrides = words[end + 1 :]
    curves = {
        Path(recipe).stem: mean([pruned(trained(recipe, s, wish), wish) for s in wish.seeds])
        for recipe in wish.recipes
    }
    results = {
        name: {"format": pruning.FORMAT, "curves": [curve]} for name, curve in curves.items()
    }
    band = f"band: {len(wish.seeds)} seeds, lowest to highest"
    pruning.write(pruning.figures(results, band), RESULTS / "pruning_curve")
    page(
        "pruning_curve",
        f"Pruning curves: {wish.method}, {wish.finetune_steps} steps after each level",
        [
            f"`python benchmarks/pruning_curve.py {' '.join(sys.argv[1:])}`",
            "",
            (
                "Loss: mean over seeds (lowest to highest). Change: against the same run unpruned "
                "and not trained on. FLOPs: a forward pass if zeros cost nothing. Decoding: "
                "measured, against the same run unpruned."
            ),
            "",
            "| model | level % | gone % | not zero | FLOPs/token | loss | change | decoding |",
            "|---|---|---|---|---|---|---|---|",
            *[row for name, curve in curves.items() for row in rows(name, curve)],
        ],
    )


if __name__ == "__main__":
    main()
