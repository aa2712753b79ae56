"""Is an export the model? It is loaded in a clean process, without Espalier, and compared."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from espalier.data.tokenizer.base import Tokenizer
from espalier.errors import MachineError, UserError, need
from espalier.nn.gpt import GPT

LIMIT = 1e-4
ROWS, TIME = 2, 64
TEXTS = ("Once upon a time,\n", "The year 2024: 1 + 1 = 2, isn't it?", "a  b\t\n\n c  ")


@dataclass(frozen=True)
class Verdict:
    """What the comparison found."""

    loaded: str
    """the class that transformers made of it"""
    largest: float
    """difference of two logits, fp32"""
    exact: float | None
    """the same in fp64, where fp32 was above the limit by rounding"""
    agreement: float
    """share of positions whose likeliest token is the same"""
    texts: int
    """texts that the two tokenizers spell alike"""

    def __str__(self) -> str:
        wide = "" if self.exact is None else f" ({self.exact:.1e} in fp64)"
        spelled = f", {self.texts} texts spelled alike" if self.texts else ""
        return (
            f"{self.loaded} in a clean process: largest logit difference {self.largest:.1e}{wide}, "
            f"likeliest token alike at {100 * self.agreement:g} % of places{spelled}"
        )


@dataclass(frozen=True)
class Asked:
    """What a clean process is to load."""

    folder: Path
    own_code: bool = False
    gguf: str | None = None
    config: Mapping[str, Any] | None = None
    """of a GGUF file, whose metadata transformers reads in part"""


def require(asked: Asked, model: GPT, block: int, vocab: int, speaks: Tokenizer | None) -> Verdict:
    """UserError unless the export gives the model's logits; `speaks` is compared where given."""
    if importlib.util.find_spec("transformers") is None:  # found is enough: importing takes seconds
        need("transformers", "hf")
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(vocab, (ROWS, min(TIME, block)), generator=chance)
    texts = [] if speaks is None else [text for text in TEXTS if _writable(speaks, text)]
    with torch.no_grad():
        ours = model(ids)
        theirs, told = _run(asked, ids, texts)
        apart, exact = _apart(ours, theirs), None
        if apart > LIMIT:
            wide = model.double()
            exact = _apart(wide(ids), _run(asked, ids, [], "float64")[0])
            model.float()
    if told["wrong"]:
        raise UserError(f"the export loads, but not all of it: {told['wrong']}")
    if (apart if exact is None else exact) > LIMIT:
        raise UserError(
            f"the export computes something else than the model: logits differ by {apart:.1e}, "
            f"at most {LIMIT:g} is let through. Nothing was kept"
        )
    for text, got in zip(texts, told["texts"], strict=True):
        if speaks is not None and got != speaks.encode(text).tolist():
            raise UserError(f"the exported tokenizer spells {text!r} otherwise. Nothing was kept")
    same = (ours.argmax(-1) == theirs.argmax(-1)).double().mean()
    return Verdict(told["class"], apart, exact, float(same), len(texts))


def _run(
    asked: Asked, ids: Tensor, texts: Sequence[str], dtype: str = "float32"
) -> tuple[Tensor, dict[str, Any]]:
    """Logits and the rest of the answer, from a process that knows nothing of Espalier."""
    with tempfile.TemporaryDirectory(prefix="espalier-export-") as place:
        question, answer = Path(place) / "asked.json", Path(place) / "answer.safetensors"
        whole = {
            "folder": str(asked.folder.resolve()),
            "own_code": asked.own_code,
            "gguf": asked.gguf,
            "config": asked.config,
            "ids": ids.tolist(),
            "texts": list(texts),
            "dtype": dtype,
            "answer": str(answer),
        }
        question.write_text(json.dumps(whole), encoding="utf-8")
        script = Path(__file__).with_name("clean.py")
        done = subprocess.run(
            [sys.executable, "-I", str(script), str(question)],
            env=_environment(place),
            cwd=place,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode < 0:
            raise MachineError(f"the process that loads the export was killed ({done.returncode})")
        if done.returncode:
            last = (done.stderr.strip().split("\n") or [""])[-1][:300]
            raise UserError(f"the export does not load in a clean process: {last}")
        told = json.loads(answer.with_suffix(".json").read_text(encoding="utf-8"))
        return load_file(answer)["logits"], told


def _environment(place: str) -> dict[str, str]:
    """Without the network, without tokens, with a cache of its own for foreign code."""
    kept = {key: value for key, value in os.environ.items() if "TOKEN" not in key}
    here = {"HF_HOME": place, "HF_MODULES_CACHE": place, "HF_HUB_OFFLINE": "1"}
    return kept | here | {"TRANSFORMERS_VERBOSITY": "error"}


def _apart(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    difference = (ours - theirs).abs().max()
    return float(difference) if difference.isfinite() else float("inf")


def _writable(tokenizer: Tokenizer, text: str) -> bool:
    """Does every character of a text have an id?"""
    try:
        return bool(len(tokenizer.encode(text)))
    except UserError:
        return False
