"""DeepSeek-OCR's image encoder: its official names, and those of SAM and CLIP in `transformers`.

The official checkpoint (and the encoder files of nano-deepseek-ocr, which keep its names) has our
names but one, a misspelling. Its language model is not read.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from espalier.errors import UserError, nearest
from espalier.nn.slots import Front

ROOT = "model."
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


def _shapes(front: Front) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in front.state_dict().items()}


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
