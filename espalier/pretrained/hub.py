"""The Hugging Face cache, read where `huggingface_hub` keeps it; fetching goes through that."""

import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from espalier.errors import MachineError, UserError, nearest, need
from espalier.pretrained import known, nanochat

# Configuration, tokenizer and one set of weights; nothing that could be run.
SMALL = ("*.json", "*.txt", "tokenizer.model", "tokenizer.pkl")
WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "model_*.pt")  # the last: nanochat's own


class Id(NamedTuple):
    """A model on the hub, and a branch, tag or commit of it."""

    name: str
    revision: str = "main"

    def __str__(self) -> str:
        return self.name if self.revision == "main" else f"{self.name}@{self.revision}"


def parse(source: str) -> Id | None:
    """`gpt2`, `EleutherAI/pythia-160m@step1000`; None for what can only be a path."""
    match = re.fullmatch(r"([\w.-]+/)?([\w.-]+)(?:@([\w./-]+))?", source)
    if not match or source.startswith((".", "/", "~")) or source.endswith((".pt", ".safetensors")):
        return None
    return Id((match[1] or "") + match[2], match[3] or "main")


def cache() -> Path:
    """Where the hub's client keeps what it fetched."""
    if place := os.environ.get("HF_HUB_CACHE"):
        return Path(place).expanduser()
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(os.environ.get("HF_HOME") or home).expanduser() / "hub"


def cached(which: Id) -> Path | None:
    """The snapshot of a model that has a configuration and weights; None without one."""
    for name in {which.name: None, known.aliases().get(which.name, which.name): None}:
        folder = cache() / f"models--{name.replace('/', '--')}"
        ref = folder / "refs" / which.revision
        commit = ref.read_text(encoding="ascii").strip() if ref.is_file() else which.revision
        snapshot = folder / "snapshots" / commit
        if (snapshot / "config.json").is_file() and _whole(snapshot):
            return snapshot
        if nanochat.meta(snapshot):
            return snapshot
    return None


def _whole(snapshot: Path) -> bool:
    """Whether weights are there; of several shards, all that the index names."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (snapshot / name).is_file():
            return True
        index = snapshot / f"{name}.index.json"
        if index.is_file():
            named = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {})
            return all((snapshot / shard).is_file() for shard in set(named.values()))
    return False


def locate(source: str | Path) -> Path:
    """A path as it is, or the cached snapshot of a hub id. Never fetches anything.

    Raises UserError that says how to get a model that is not there.
    """
    place = Path(source).expanduser()
    which = parse(str(source))
    if place.exists() or which is None:
        return place
    if found := cached(which):
        return found
    if which.name not in known.names() and "/" not in which.name:
        hint = nearest(which.name, known.names())
        raise UserError(f"nothing at {source}, and no model of that name is known.{hint}")
    raise UserError(
        f"{which} is not in the Hugging Face cache ({cache()}). Get it: espalier import {which}"
    )


def fetch(which: Id) -> Path:
    """The cached snapshot, fetched where it is missing. MachineError where that fails."""
    if found := cached(which):
        return found
    client = need("huggingface_hub", "hf")
    place, name = cache(), known.aliases().get(which.name, which.name)

    def get(*patterns: str) -> Path:
        try:
            return Path(
                client.snapshot_download(
                    name, revision=which.revision, cache_dir=place, allow_patterns=patterns
                )
            )
        except Exception as error:  # the client has some twenty kinds, and passes on others
            first = str(error).strip().partition("\n")[0]
            raise MachineError(
                f"cannot get {which} from the Hugging Face hub ({first}).\n"
                f"Offline: copy its files to a directory and import that, or into {place}"
            ) from None

    get(*SMALL)
    for pattern in WEIGHTS:
        snapshot = get(pattern)
        if _whole(snapshot) or nanochat.meta(snapshot):
            break
    found = cached(which)
    if found is None:
        raise UserError(f"{which} has no weights that can be read: safetensors or torch files")
    return found


def commit(snapshot: Path) -> str | None:
    """The commit that a cached snapshot is of; None for any other directory."""
    return snapshot.name if snapshot.parent.name == "snapshots" else None
