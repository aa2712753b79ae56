"""`espalier export RUN`: a model as other programs read it, compared with the original first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from espalier import console
from espalier.errors import MachineError, UserError
from espalier.starting import uncollected

if TYPE_CHECKING:
    from espalier.api import Loaded
    from espalier.export.writing import Model

T = TypeVar("T")

KINDS = {
    "gpt2": "GPT-2, a class of transformers",
    "gpt_neox": "GPT-NeoX, a class of transformers",
    "llama": "Llama, a class of transformers",
    "own": "a class of its own, modeling_espalier.py (load with trust_remote_code=True)",
}


def export(
    run: str,
    /,
    *,
    to: Literal["hf", "safetensors", "gguf", "integers"],
    out: Path,
    weights: Literal["f32", "f16", "q8_0"] | None = None,
    step: int | None = None,
    tokenizer: str | None = None,
) -> dict[str, Any]:
    """Write a model as a Hugging Face directory, as safetensors, as GGUF or as integers.

    An hf export is loaded in a clean process, without Espalier, and its logits are compared; one
    that differs by more than 1e-4 is not kept.

    Example: espalier export runs/shakespeare --to hf --out exports/shakespeare

    Parameters
    ----------
    run
        A run, one of its checkpoints, nanoGPT's ckpt.pt, a Hugging Face directory or its id.
    to
        hf: a directory that transformers loads; safetensors: our own tensors and configuration, bit
        by bit; gguf: one file for llama.cpp (GPT-2, GPT-NeoX and Llama shapes); integers: weights
        that the model rounds as whole numbers, and test vectors for a circuit.
    out
        The directory to make.
    weights
        Of GGUF: f32 (the default), f16 or q8_0.
    step
        The checkpoint; the newest when left out.
    tokenizer
        In place of the one that came along: a name, a tokenizer.json, meta.pkl or a corpus.
    """
    if weights is not None and to != "gguf":
        raise UserError(f"--weights is of --to gguf; --to {to} keeps fp32")
    with uncollected():
        from espalier import api
        from espalier.export import writing

    model = model_of(api.load(run, step=step, tokenizer=tokenizer, device="cpu"))
    if to == "gguf":
        found = writing.gguf(model, out, weights or "f32")
    else:
        write = {"hf": writing.hf, "safetensors": writing.safetensors, "integers": writing.whole}
        found = write[to](model, out)
    for line in lines(found):
        console.out(line)
    return found


def model_of(loaded: Loaded) -> Model:
    """What is exported; a warning names what cannot come along."""
    from espalier.export.writing import Model

    speaks = got("tokenizer", lambda: loaded.tokenizer)
    tuned = speaks is not None and loaded.template is not None
    speaker = got("chat template", lambda: loaded.chat.speaker) if tuned else None
    seeing = loaded.model.trunk.front is not None
    mode = got("image mode", lambda: loaded.image_mode) if seeing else None
    return Model(loaded.model, loaded.config.model, speaks, speaker, mode)


def got(what: str, find: Callable[[], T]) -> T | None:
    try:
        return find()
    except (MachineError, UserError) as error:
        console.warn(f"the export has no {what}: {error}")
        return None


def lines(found: dict[str, Any]) -> list[str]:
    if found["format"] == "safetensors":
        said = [f"{found['tensors']} tensors, read back bit by bit"]
    elif found["format"] == "integers":
        off = found["largest_difference"]
        said = [f"{found['rounded']} weights as whole numbers, read back bit by bit"]
        said += [f"outputs differ from the exact sums by {off:.1e} of the largest at most"]
    elif found["format"] == "gguf":
        checked = found.get("verdict", "read back bit by bit; transformers has no reader for it")
        said = [f"GGUF, {found['kind']}, {found['rounding']}", checked]
    else:
        said = [KINDS[found["kind"]], found["verdict"]]
    said += [f"note: {remark}" for remark in found.get("remarks", ())]
    return [*said, f"{found['folder']}: {', '.join(found['files'])}"]
