"""DeepSeek-OCR's image encoder: its official names, and those of SAM and CLIP in `transformers`.

Also whole models of nano-deepseek-ocr (step_N.pt): that encoder before nanochat's GPT.

The official checkpoint (and the encoder files of nano-deepseek-ocr, which keep its names) has our
names but one, a misspelling. Its language model is not read. `front.norm` is the model's that the
features go into, so that no file holds it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from espalier.config import encode, refine
from espalier.errors import UserError, nearest
from espalier.nn.gpt import sketch
from espalier.nn.slots import Front
from espalier.pretrained import files, nanochat
from espalier.pretrained.foreign import Foreign

ENCODER = "encoder.safetensors"  # in a run: its encoder alone, in the official names
ROOT = "model."
LANGUAGE = "gpt."  # nano-deepseek-ocr's, before the names of nanochat's GPT
NORM = "norm."
PARTS = ("sam_model.", "vision_model.", "projector.", "image_newline", "view_seperator")
BUFFERS = ("vision_model.embeddings.position_ids",)
MISSPELT = {"view_separator": "view_seperator"}  # ours -> theirs

# Names in `transformers` -> ours, by pattern.
SAM = (
    (r"^vision_encoder\.", ""),
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.(\d+)\.layer_norm([12])\.", r"blocks.\1.norm\2."),
    (r"^layers\.", "blocks."),
    (r"^neck\.conv1\.", "neck.0."),
    (r"^neck\.layer_norm1\.", "neck.1."),
    (r"^neck\.conv2\.", "neck.2."),
    (r"^neck\.layer_norm2\.", "neck.3."),
)
CLIP = (
    (r"^vision_model\.", ""),
    (r"^encoder\.", "transformer."),
)
CLIP_ONLY = ("post_layernorm.", "embeddings.position_ids")  # what DeepSeek-OCR left out
BORROWED = ("sam_model.", "vision_model.")
OWN = ("sam_model.net_2.", "sam_model.net_3.")  # of DeepSeek-OCR, no part of SAM


def read(place: Path, front: Front) -> dict[str, Tensor]:
    """The front's tensors, from whatever holds an encoder in the official names.

    That is a .safetensors file, deepencoder_N.pt or step_N.pt of nano-deepseek-ocr, or the
    directory of the published checkpoint, of which nothing else is read.
    """
    if place.is_dir():
        index = place / "model.safetensors.index.json"
        names = files.read_json(index).get("weight_map", {}).values() if index.is_file() else ()
        shards = [place / name for name in sorted(set(names)) or ["model.safetensors"]]
        held = {name: t for shard in shards for name, t in _encoder(shard).items()}
        return to_ours(held, front, str(place))
    return to_ours(_encoder(place), front, str(place))


def _encoder(file: Path) -> dict[str, Tensor]:
    """What of a file may be the encoder's."""
    files.check(file)
    if file.suffix != ".safetensors":
        found = files.read_torch(file)
        if not isinstance(found, Mapping) or not all(isinstance(k, str) for k in found):
            raise UserError(f"{file} is not a dictionary of tensors")
        return {name: t for name, t in found.items() if _own(name) and isinstance(t, Tensor)}
    try:
        with safe_open(file, "pt") as held:
            return {name: held.get_tensor(name) for name in held.keys() if _own(name)}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is no safetensors file, or is cut short: {error}") from None


def _own(name: str) -> bool:
    return name.removeprefix(ROOT).startswith(PARTS)


def holds(held: Any) -> bool:
    """Are these the tensors of an encoder, with a language model behind it or alone?"""
    return isinstance(held, Mapping) and "sam_model.pos_embed" in held


def interpret(held: Mapping[str, Tensor], file: Path, n_head: int | None) -> Foreign:
    """A step_N.pt of nano-deepseek-ocr, which names no number of heads.

    Its GPT norms features with its embeddings, and rounds the tables of its rotation.
    """
    theirs = {
        nanochat.renamed(name.removeprefix(LANGUAGE)): tensor
        for name, tensor in held.items()
        if name.startswith(LANGUAGE)
    }
    if not theirs:
        raise UserError(
            f"{file} holds an encoder of images alone; a model starts from it with "
            f"train.init_front={file}"
        )
    heads = nanochat.with_heads(None, n_head, file)
    text = nanochat.shaped(nanochat.shapes(theirs, file) | {"n_head": heads}, file)
    weights = nanochat.interpret(theirs, text, file).weights
    tree = {"front": _shape(held) | {"norm": encode(text)["block"]["norm"]}}
    config = refine(text, tree | {"position": {"tables": "bfloat16"}})
    front = sketch(config).trunk.front
    assert front is not None
    ours = {f"trunk.front.{name}": t for name, t in to_ours(held, front, str(file)).items()}
    number = re.search(r"step_(\d+)", file.name)
    step = int(number[1]) if number else 0
    return Foreign("deepseek_ocr", file, config, {**weights, **ours}, step)


def _shape(held: Mapping[str, Tensor]) -> dict[str, Any]:
    """The configuration of an encoder from its tensors. CLIP's heads are 64 wide, as published."""
    sam, clip = "sam_model.", "vision_model."
    width, _, patch, _ = held[f"{sam}patch_embed.proj.weight"].shape
    grid = held[f"{sam}pos_embed"].shape[1]
    tables = _numbered(held, f"{sam}blocks.", ".attn.rel_pos_h")
    sides = [(len(table) + 1) // 2 for table in tables]
    places = held[f"{clip}embeddings.position_embedding.weight"]
    layers = _numbered(held, f"{clip}transformer.layers.", ".mlp.fc1.weight")
    wide = places.shape[1]
    return {
        "name": "deep_encoder",
        "sam": {
            "side": grid * patch,
            "patch": patch,
            "width": width,
            "depth": len(sides),
            "heads": width // tables[0].shape[1],
            "window": min(sides),
            "whole": [i for i, side in enumerate(sides) if side == grid],
            "neck": len(held[f"{sam}neck.0.weight"]),
            "between": len(held[f"{sam}net_2.weight"]),
        },
        "clip": {
            "width": wide,
            "depth": len(layers),
            "heads": max(1, wide // 64),
            "hidden": len(layers[0]),
            "grid": math.isqrt(len(places) - 1),
            "patch": held[f"{clip}embeddings.patch_embedding.weight"].shape[2],
        },
    }


def _numbered(held: Mapping[str, Tensor], before: str, after: str) -> list[Tensor]:
    found: list[Tensor] = []
    while (name := f"{before}{len(found)}{after}") in held:
        found.append(held[name])
    return found


def to_ours(theirs: Mapping[str, Tensor], front: Front, where: str) -> dict[str, Tensor]:
    """The front's tensors in fp32, from a file of the official names, with `model.` or without.

    What is not of the encoder is passed over. Raises UserError that names what is missing, left
    over, of another shape, or not finite.
    """
    back = {theirs: ours for ours, theirs in MISSPELT.items()}
    found = {}
    for key, tensor in theirs.items():
        name = key.removeprefix(ROOT)
        if name.startswith(PARTS) and name not in BUFFERS:
            found[back.get(name, name)] = tensor
    return _fitting(found, _shapes(front), where)


def to_theirs(front: Front) -> dict[str, Tensor]:
    """The official names of the front's tensors."""
    return {
        ROOT + MISSPELT.get(name, name): tensor.contiguous()
        for name, tensor in front.state_dict().items()
        if not apart(name)
    }


def from_parts(
    sam: Mapping[str, Tensor], clip: Mapping[str, Tensor], front: Front, where: str
) -> dict[str, Tensor]:
    """The tensors that SAM and CLIP bring, from state dicts of `transformers`' vision models.

    Compressor, projector, newline and separator are DeepSeek-OCR's own and keep their start.
    Raises UserError as `to_ours` does.
    """
    found = {f"sam_model.{name}": t for name, t in _renamed(sam, SAM).items()}
    for name, tensor in _joined(_renamed(clip, CLIP)).items():
        if not name.startswith(CLIP_ONLY):
            found[f"vision_model.{name}"] = tensor
    wanted = {
        name: shape
        for name, shape in _shapes(front).items()
        if name.startswith(BORROWED) and not name.startswith(OWN)
    }
    return _fitting(found, wanted, where)


def borrowed(sam: Path, clip: Path, front: Front) -> dict[str, Tensor]:
    """As `from_parts`, of `transformers` directories; of whole models the vision model alone."""
    parts = _vision(sam, "vision_encoder."), _vision(clip, "vision_model.")
    return from_parts(*parts, front, f"{sam}+{clip}")


def _vision(folder: Path, root: str) -> dict[str, Tensor]:
    held = files.read_tensors(folder)
    return {name: t for name, t in held.items() if name.startswith(root)} or held


def apart(name: str) -> bool:
    """Is a tensor of the front not the encoder's, but the model's that it feeds?"""
    return name.startswith(NORM)


def _shapes(front: Front) -> dict[str, torch.Size]:
    held = front.state_dict()
    return {name: tensor.shape for name, tensor in held.items() if not apart(name)}


def _renamed(
    theirs: Mapping[str, Tensor], patterns: Sequence[tuple[str, str]]
) -> dict[str, Tensor]:
    found = {}
    for key, tensor in theirs.items():
        name = key
        for pattern, ours in patterns:
            name = re.sub(pattern, ours, name)
        found[name] = tensor
    return found


def _joined(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values of a layer in one tensor, in this order."""
    found: dict[str, Tensor] = {}
    for name, tensor in theirs.items():
        part = re.sub(r"\.([qkv])_proj\.", ".qkv_proj.", name)
        if part == name:
            found[name] = tensor
        elif part not in found:
            three = [theirs.get(part.replace("qkv_proj", f"{one}_proj")) for one in "qkv"]
            found[part] = torch.cat([one for one in three if one is not None])
    return found


def _fitting(
    found: Mapping[str, Tensor], wanted: Mapping[str, torch.Size], where: str
) -> dict[str, Tensor]:
    missing = [name for name in wanted if name not in found]
    spare = [name for name in found if name not in wanted]
    if missing:
        raise UserError(
            f"{where}: {len(missing)} tensors of the encoder missing, the first is {missing[0]}."
            f"{nearest(missing[0], spare)}"
        )
    if spare:
        raise UserError(f"{where}: {len(spare)} tensors are not the encoder's, first {spare[0]}")
    for name, shape in wanted.items():
        if found[name].shape != shape:
            got = list(found[name].shape)
            raise UserError(f"{where}: {name} is {got}, the configuration says {list(shape)}")
        if not found[name].isfinite().all():
            raise UserError(f"{where}: {name} holds NaN or infinity")
    return {name: found[name].float().contiguous() for name in wanted}
