"""A model as a directory for other programs: written beside its place, verified, moved there."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from espalier.config import encode
from espalier.data.chat import Speaker
from espalier.data.illustrated import IMAGE
from espalier.data.tokenizer.base import Tokenizer
from espalier.durable import digest, rename, require_room
from espalier.errors import UserError
from espalier.export import gguf_file, integers, native, template, tokenizers, verify
from espalier.export.custom import FILE, Custom
from espalier.nn.gpt import GPT, GPTConfig
from espalier.nn.rounding import Rounded
from espalier.pretrained import deepseek_ocr, fill
from espalier.pretrained.own import MODE
from espalier.pretrained.tokenizers import OURS
from espalier.run import CHAT
from espalier.train import checkpoint

Format = Literal["hf", "safetensors", "gguf", "integers"]
READ_BY_TRANSFORMERS = {"gpt2", "llama"}
WEIGHTS, CONFIG = "model.safetensors", "config.json"
WHOLE, VECTORS = "integers.safetensors", "vectors.safetensors"


@dataclass(frozen=True)
class Model:
    """What is exported."""

    net: GPT
    config: GPTConfig
    tokenizer: Tokenizer | None
    speaker: Speaker | None = None
    """of a model that was tuned on conversations"""
    image_mode: str | int | None = None
    """of a model that reads images"""

    @property
    def weights(self) -> dict[str, Tensor]:
        """By our names, on the CPU; shared ones once."""
        return {name: t.cpu().contiguous() for name, t in checkpoint.tensors(self.net).items()}

    @property
    def vocab_size(self) -> int:
        assert self.config.vocab_size is not None
        return self.config.vocab_size

    @property
    def jinja(self) -> str | None:
        """Its chat template, as other programs read one."""
        return None if self.speaker is None else template.jinja(self.speaker.template)

    @property
    def sight(self) -> dict[str, Any]:
        """For config.json: how an image becomes squares, and the id that its features replace."""
        if self.image_mode is None:
            return {}
        special: Mapping[str, int] = getattr(self.tokenizer, "special", {})
        return {MODE: self.image_mode, "image_token_id": special.get(IMAGE)}


def hf(model: Model, out: Path) -> dict[str, Any]:
    """A transformers directory: a native class where there is one, else one made from the parts.

    Of a model that reads images, its encoder is beside it in the official names, as in a run.
    Raises UserError where the export, loaded in a clean process, computes something else.
    """
    found = native.find(model.config)
    with _place(out, model) as folder:
        if found is not None:
            config = found.config | {
                "model_type": found.family.name,
                "architectures": [found.family.architecture],
            }
            tensors = found.tensors(model.weights)
        else:
            made = Custom(model.config)
            config, tensors = made.config(), made.tensors(model.weights)
            (folder / f"{FILE}.py").write_text(made.source(), encoding="utf-8")
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})
        if (front := model.net.trunk.front) is not None:
            save_file(deepseek_ocr.to_theirs(front), folder / deepseek_ocr.ENCODER)
        config |= {"dtype": "float32"} | model.sight
        _write(folder / CONFIG, config | _ends(model.tokenizer))
        _write(folder / "generation_config.json", _generation(model, cached=found is not None))
        speaks = _speak(model, folder)
        asked = verify.Asked(folder, own_code=found is None)
        size = model.config.block_size
        verdict = verify.require(asked, model.net, size, model.vocab_size, speaks)
    kind = found.family.name if found else "own"
    about = {"kind": kind, "remarks": _unsaid(model.speaker, speaks)}
    return _facts("hf", out) | about | _said(verdict)


def safetensors(model: Model, out: Path) -> dict[str, Any]:
    """Our own tensors and configuration, read back bit by bit."""
    weights = model.weights
    with _place(out, model) as folder:
        save_file(weights, folder / WEIGHTS, {"format": "pt"})
        config = {"model_type": "espalier", "model": encode(model.config)}
        _write(folder / CONFIG, config | model.sight)
        if model.tokenizer is not None:
            _write(folder / OURS, model.tokenizer.spec())
        _converse(model, folder)
        back = load_file(folder / WEIGHTS)
        if back.keys() != weights.keys() or not all(
            map(_same, weights.values(), _by(back, weights))
        ):
            raise UserError("the file does not give back the tensors. Nothing was kept")
    return _facts("safetensors", out) | {"kind": "own", "tensors": len(weights), "bitwise": True}


def whole(model: Model, out: Path) -> dict[str, Any]:
    """Rounded weights as integers, read back bit by bit, and vectors to test a circuit with."""
    tensors, about = integers.tensors(model.net, model.weights)
    vectors, worst = integers.vectors(model.net, model.config.block_size, model.vocab_size)
    with _place(out, model) as folder:
        save_file(tensors, folder / WHOLE, {"format": "pt"})
        save_file(vectors, folder / VECTORS, {"format": "pt"})
        config = {"model_type": "espalier", "model": encode(model.config), "integers": about}
        _write(folder / CONFIG, config)
        if model.tokenizer is not None:
            _write(folder / OURS, model.tokenizer.spec())
        back = load_file(folder / WHOLE)
        for path, part in integers.rounded(model.net).items():
            codes = cast(Rounded, part).integers()
            if not torch.equal(integers.weight(back, about, f"{path}.weight"), codes.value):
                raise UserError(f"the file does not give back {path}.weight. Nothing was kept")
    said = {"kind": "own", "rounded": len(about), "bytes": (out / WHOLE).stat().st_size}
    return _facts("integers", out) | said | {"largest_difference": worst}


def gguf(model: Model, out: Path, rounding: gguf_file.Rounding = "f32") -> dict[str, Any]:
    """A directory with one .gguf file: fp32, f16 or q8_0 matrices.

    What it holds is read back; where transformers reads the architecture (not GPT-NeoX), it is
    loaded in a clean process and compared with the model whose weights are rounded as they are.
    Raises UserError for a model of another architecture.
    """
    found = native.find(model.config)
    if found is None:
        raise UserError(
            "GGUF knows GPT-2, GPT-NeoX and Llama, and this model is built otherwise: --to hf"
        )
    weights = gguf_file.rounded(model.weights, rounding)
    name, said = f"model-{rounding}.gguf", {}
    with _place(out, model) as folder:
        to, speaks = folder / name, model.tokenizer
        remarks = gguf_file.write(found, weights, rounding, speaks, to, model.speaker)
        if found.family.name in READ_BY_TRANSFORMERS:
            config = found.config | {"model_type": found.family.name}
            asked = verify.Asked(folder, gguf=name, config=config)
            size, rough = model.config.block_size, fill(model.config, weights)
            said = _said(verify.require(asked, rough, size, model.vocab_size, None))
    about = {"kind": found.family.name, "rounding": rounding, "remarks": remarks}
    return _facts("gguf", out) | about | said


@contextmanager
def _place(out: Path, model: Model) -> Iterator[Path]:
    """A directory that takes the place `out` when all went well and is gone otherwise."""
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"cannot write {out}: {out.parent} is no directory") from None
    size = sum(t.numel() * t.element_size() for t in model.net.state_dict().values())
    require_room(out.absolute().parent, size)
    working = out.with_name(f"{out.name}.tmp-{uuid.uuid4().hex[:8]}")
    working.mkdir()
    try:
        yield working
        rename(working, out)
    finally:
        shutil.rmtree(working, ignore_errors=True)


def _speak(model: Model, folder: Path) -> Tokenizer | None:
    """Write the files of tokenizer and chat; what a clean process can compare is given back."""
    if model.tokenizer is None:
        return None
    _converse(model, folder)
    made = tokenizers.files(model.tokenizer, model.config.block_size, model.jinja)
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")
    return model.tokenizer if "tokenizer.json" in made else None


def _converse(model: Model, folder: Path) -> None:
    if model.speaker is not None:
        _write(folder / CHAT, encode(model.speaker.template))


def _unsaid(speaker: Speaker | None, speaks: Tokenizer | None) -> list[str]:
    """What transformers does not learn of conversations; `speaks` is the tokenizer it has."""
    if speaker is None:
        return []
    if speaks is None:
        return [f"transformers has no such tokenizer: the chat template stands in {CHAT} alone"]
    return template.endings(speaker)


def _generation(model: Model, *, cached: bool) -> dict[str, Any]:
    found = _ends(model.tokenizer) | ({} if cached else {"use_cache": False})
    return found if model.speaker is None else found | {"eos_token_id": model.speaker.stop_ids()}


def _ends(tokenizer: Tokenizer | None) -> dict[str, Any]:
    end = None if tokenizer is None else tokenizer.eot
    return {"bos_token_id": end, "eos_token_id": end}


def _said(verdict: verify.Verdict) -> dict[str, Any]:
    return {
        "loaded": verdict.loaded,
        "largest_difference": verdict.largest if verdict.exact is None else verdict.exact,
        "agreement": verdict.agreement,
        "verdict": str(verdict),
    }


def _facts(format_: Format, out: Path) -> dict[str, Any]:
    files = {file.name: digest(file) for file in sorted(out.iterdir())}
    return {"format": format_, "folder": str(out), "files": files}


def _by(found: Mapping[str, Tensor], order: Mapping[str, Tensor]) -> list[Tensor]:
    return [found[name] for name in order]


def _same(one: Tensor, other: Tensor) -> bool:
    """Bit by bit, so that a NaN is itself."""
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and torch.equal(
        one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)
    )


def _write(file: Path, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")
