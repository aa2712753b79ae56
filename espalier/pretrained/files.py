"""Reading weight files of other programs; nothing in them is ever run."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from espalier.errors import UserError


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; UserError for anything else."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} is not a JSON object")
    return found


def check(file: Path) -> None:
    """UserError for what people often have in place of a weight file."""
    try:
        with file.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    if not head:
        raise UserError(f"{file} is empty (0 bytes)")
    if head.startswith(b"version https://git-lfs"):
        size = file.stat().st_size
        raise UserError(f"{file} is a Git LFS pointer of {size} bytes: fetch it with git lfs pull")
    if head.lstrip()[:15].lower().startswith((b"<!doctype", b"<html")):
        raise UserError(f"{file} is a web page, not weights: the download went wrong")


def read_torch(file: Path) -> Any:
    """A torch file of tensors, numbers, text and containers; whatever else it names is refused."""
    check(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as nearly any exception
        text = str(error)
        named = re.search(r"GLOBAL ([\w.]+)|Unsupported class ([\w.]+)", text)
        if named:
            what = named[1] or named[2]
            raise UserError(
                f"{file} is refused: it holds {what}, and only plain tensors are read, "
                "because loading objects can run code"
            ) from None
        whole = text.strip().partition("\n")[0][:120]
        raise UserError(f"{file} is no torch checkpoint, or is cut short: {whole}") from None


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The weights of a Hugging Face directory: safetensors or torch files, whole or in shards."""
    for name, read in (
        ("model.safetensors", read_safetensors),
        ("pytorch_model.bin", _torch_tensors),
    ):
        if (folder / name).is_file():
            return read(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(read_json(index).get("weight_map", {}).values()))
            absent = [shard for shard in shards if not (folder / shard).is_file()]
            if absent or not shards:
                raise UserError(f"{folder} lacks shards that {index.name} names: {absent}")
            return {key: t for shard in shards for key, t in read(folder / shard).items()}
    raise UserError(f"{folder} has no weights: neither model.safetensors nor pytorch_model.bin")


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of one file; UserError where it is none."""
    check(file)
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is no safetensors file, or is cut short: {error}") from None


def _torch_tensors(file: Path) -> dict[str, Tensor]:
    found = read_torch(file)
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise UserError(f"{file} is not a dictionary of tensors")
    return found
