"""A corpus and an experiment that train in a second."""

import pickle
from pathlib import Path

import numpy as np

from espalier.config import decode
from espalier.experiment import Experiment, apply

SYMBOLS = "abcdefghij\n"


def corpus(folder: Path, train: int = 3000, val: int = 301) -> Path:
    """nanoGPT's layout; a noisy cycle of 11 symbols, which a small model learns at once."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(7)
    for name, length in (("train", train), ("val", val)):
        steps = chance.choice([1, 1, 1, 2, 5], length)
        (np.cumsum(steps) % len(SYMBOLS)).astype("<u2").tofile(folder / f"{name}.bin")
    stoi = {symbol: i for i, symbol in enumerate(SYMBOLS)}
    meta = {"vocab_size": len(SYMBOLS), "stoi": stoi, "itos": {i: s for s, i in stoi.items()}}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return folder


def experiment(corpus: Path, *overrides: str) -> Experiment:
    """2 layers of 16, dropout, two micro-batches, saves off the evaluations' beat."""
    tree = {
        "model": {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8, "dropout": 0.1},
        "data": {"corpus": str(corpus), "batch_size": 4},
        "train": {
            "max_iters": 30,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-2,
            "min_lr": 1e-3,
            "warmup_iters": 3,
            "eval_interval": 10,
            "save_interval": 4,
            "log_interval": 1,
        },
    }
    return apply(decode(Experiment, tree), overrides)
