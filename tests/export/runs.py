"""A run on disk without training: what `export` and `push` start from."""

from pathlib import Path
from typing import Any

from espalier import experiment
from espalier.config import encode, refine
from espalier.data.tokenizer.base import Tokenizer
from espalier.data.tokenizer.char import CharTokenizer
from espalier.durable import write_json
from espalier.experiment import Experiment
from espalier.provenance import environment
from espalier.run import Run
from espalier.train import checkpoint
from tests.export.models import SIZES

LETTERS = CharTokenizer("\n abcdefghijklmnopqrstuvwxyz.")


def make_run(place: Path, model: dict[str, Any], tokenizer: Tokenizer = LETTERS) -> Path:
    tree = {"model": SIZES | model, "data": {"corpus": "/home/someone/secret-place/plays"}}
    plan = refine(Experiment(), tree)
    run = Run.create(place, encode(plan), environment(data="ab" * 32))
    with run.lock():
        write_json(place / "tokenizer.json", tokenizer.spec())
        for step in (1, 2, 3):
            run.log({"kind": "train", "step": step, "loss": 4.0 - step})
        run.log({"kind": "eval", "step": 3, "val_loss": 1.25})
        run.commit(3, checkpoint.writer(experiment.build(plan)), {"val_loss": 1.25})
    return place
