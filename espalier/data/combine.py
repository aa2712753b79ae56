"""Prepared corpora of one tokenizer as one corpus: their shards side by side."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espalier import durable
from espalier.data import shards
from espalier.data.corpus import FORMAT, META, Corpus
from espalier.data.request import Listener, Request
from espalier.errors import MachineError, UserError
from espalier.units import size

SPLITS = ("train", "val")


def is_corpus(place: str) -> bool:
    """Whether a source's name is a directory that `espalier prepare` made."""
    return (Path(place) / META).is_file()


def combine(request: Request, listener: Listener) -> Corpus:
    """Copy the shards of `request`'s sources, all of them corpora, behind each other.

    Each keeps its own split: what was for validation stays so. UserError where the tokenizers
    differ, for then the same id would mean two texts.
    """
    places = (request.source, *request.more)
    if len(places) == 1:
        raise UserError(f"{places[0]} is a prepared corpus already (--stats counts its tokens)")
    if strangers := [place for place in places if not is_corpus(place)]:
        raise UserError(
            f"{strangers[0]} is no prepared corpus and {_first(places)} is: prepare all of them "
            "from their texts, or each alone first"
        )
    _refuse_choices(request)
    members = [Corpus.open(place) for place in places]
    _same_tokenizer(members)
    if chats := [member.path for member in members if "chat" in member.meta]:
        raise UserError(
            f"{chats[0]} holds conversations, which are not put together here: a run reads several "
            "corpora side by side (data.mixture)"
        )
    identity = {
        "kind": "corpora",
        "name": " + ".join(member.path.name for member in members),
        "sources": [member.meta["source"] | {"digest": member.digest} for member in members],
    }
    if (done := _already(request, identity, listener)) is not None:
        return done
    _check_room(members, request.out)
    partial = request.out.with_name(request.out.name + ".partial")
    with shards.alone(partial):
        shards.clear(partial)
        try:
            entries = _copied(members, partial, listener)
        except UserError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shards.write_json(partial / META, _description(members, entries, identity))
    shards.publish(partial, request.out)
    return Corpus.open(request.out)


def _first(places: Sequence[str]) -> str:
    return next(place for place in places if is_corpus(place))


def _refuse_choices(request: Request) -> None:
    """UserError for an option that says how a text is tokenised or divided."""
    for name, given in (
        ("--tokenizer", request.tokenizer),
        ("--vocab", request.vocab),
        ("--vocab-size", request.vocab_size),
        ("--special", request.special),
        ("--val-fraction", request.val_fraction),
        ("--target-tokens", request.target_tokens),
        ("--text-key", request.text_key),
    ):
        if given is not None:
            raise UserError(f"{name} is for texts; prepared corpora are taken as they are")


def _same_tokenizer(members: Sequence[Corpus]) -> None:
    first = members[0]
    for other in members[1:]:
        if other.meta.get("tokenizer") != first.meta.get("tokenizer"):
            raise UserError(
                f"{other.path} was written by another tokenizer than {first.path}: prepare its "
                f"text again with --tokenizer {first.path}"
            )


def _already(request: Request, identity: dict[str, Any], listener: Listener) -> Corpus | None:
    out = request.out
    if out.resolve() in {Path(place).resolve() for place in (request.source, *request.more)}:
        raise UserError(f"--out {out} is the input itself: choose another directory")
    if not shards.taken(out) or request.existing == "overwrite":
        return None
    corpus = Corpus.open(out)
    if corpus.meta["source"] != identity:
        raise UserError(f"{out} holds another corpus: choose another --out, or pass --overwrite")
    listener.note(f"{out} is this very corpus already: nothing to do")
    return corpus


def _check_room(members: Sequence[Corpus], out: Path) -> None:
    need = sum(file.stat().st_size for m in members for file in (*m.train.files, *m.val.files))
    home = next(parent for parent in out.resolve().parents if parent.exists())
    if need > (free := shutil.disk_usage(home).free):
        raise MachineError(f"about {size(need)} are needed in {home}, {size(free)} are free")


def _copied(members: Sequence[Corpus], folder: Path, listener: Listener) -> list[dict[str, Any]]:
    """The shards' entries, training first; every copy is compared with what its corpus says."""
    entries = []
    for split in SPLITS:
        all_ = [(m, e) for m in members for e in m.meta["shards"] if e["split"] == split]
        for number, (member, entry) in enumerate(all_):
            name = f"{split}-{number:05d}-of-{len(all_):05d}.bin"
            try:
                shutil.copyfile(member.path / entry["file"], folder / name)
                durable.sync(folder / name)
            except OSError as error:
                raise MachineError(f"cannot write {folder / name}: {error.strerror}") from None
            if durable.digest(folder / name) != entry["sha256"]:
                raise UserError(f"{member.path / entry['file']} has changed since it was prepared")
            entries.append(entry | {"file": name})
            listener.progress(len(entries), None, "shards")
    return entries


def _description(
    members: Sequence[Corpus], entries: list[dict[str, Any]], identity: dict[str, Any]
) -> dict[str, Any]:
    metas = [member.meta for member in members]
    fell = [meta["fallback"] for meta in metas if meta.get("fallback")]
    documents = {
        key: sum(meta["documents"][key] for meta in metas) for key in metas[0]["documents"]
    }
    return {
        "format": FORMAT,
        **{key: metas[0][key] for key in ("dtype", "vocab_size")},
        **{key: _by_split(metas, key) for key in ("tokens", "characters", "bytes")},
        "documents": documents,
        "replaced": sum(meta["replaced"] for meta in metas),
        "fallback": {s: sum(f[s] for f in fell) for s in SPLITS} if fell else None,
        "max_id": max(meta["max_id"] for meta in metas),
        "source": identity,
        "split": {"rule": "as each corpus has it", "splits": [meta["split"] for meta in metas]},
        "shards": entries,
        "settings": {"tokenizer": metas[0]["settings"]["tokenizer"]},
        "tokenizer": metas[0]["tokenizer"],
    }


def _by_split(metas: Sequence[dict[str, Any]], key: str) -> dict[str, int]:
    return {split: sum(meta[key][split] for meta in metas) for split in SPLITS}
