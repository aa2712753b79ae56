"""From a source to a corpus: the engine of `espalier prepare`.

Text streams through in pieces, is encoded in blocks, and is appended to shards in a directory
beside the output (`OUT.partial`) which takes its place when all is done. A killed run goes on from
its last commit, and ends in the same bytes as one that was never interrupted.
"""

import json
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from espalier.data import shards
from espalier.data.blocks import Block, Counts, Encoded, blocks, encode, encoder
from espalier.data.combine import combine, is_corpus
from espalier.data.corpus import FORMAT, META, Corpus
from espalier.data.download import Retry
from espalier.data.job import Job, already, check_disk, plan, settings
from espalier.data.pieces import Mark
from espalier.data.request import BPE_SIZE, Listener, Request
from espalier.data.shards import ShardWriter, State
from espalier.data.sources.plugins import is_plugin
from espalier.data.split import TOP, VAL
from espalier.data.tokenizer import END_OF_TEXT, SIZED, Tokenizer, check_name, fallback, load, train
from espalier.data.tokenizer.special import with_special
from espalier.data.tokens import token_dtype
from espalier.errors import UserError
from espalier.units import count

COMMIT_EVERY = 2.0  # seconds
SAMPLE = 1 << 26  # characters a vocabulary is learnt from
WORTH_A_PROCESS = 1 << 25  # bytes of text
TOKENIZER = "tokenizer.json"


def prepare(
    request: Request, listener: Listener | None = None, retry: Retry | None = None
) -> Corpus:
    """Make the corpus, or return the one already there when it is the same.

    UserError for what the user must change, MachineError for disk and network; neither leaves
    anything at `request.out`. What a MachineError interrupts is gone on with by the same call.
    """
    if request.tokenizer is not None:
        check_name(request.tokenizer)
    listener = listener or Listener()
    if not is_plugin(request.source) and any(map(is_corpus, (request.source, *request.more))):
        return combine(request, listener)
    return made(plan(request, listener, retry))


def made(job: Job) -> Corpus:
    """The corpus of a job, as `prepare` makes it."""
    wanted = settings(job)
    if (done := already(job, wanted)) is not None:
        return done
    check_disk(job)
    with shards.alone(job.partial):
        try:
            tokenizer, state = begin(job, wanted)
            state = _fill_both_splits(job, tokenizer, state)
            describe(job, tokenizer, state)
        except UserError:
            shutil.rmtree(job.partial, ignore_errors=True)
            raise
    shards.publish(job.partial, job.request.out)
    return Corpus.open(job.request.out)


def begin(job: Job, wanted: dict[str, Any]) -> tuple[Tokenizer, State]:
    """The tokenizer and the state to go on from: an interrupted run's, or fresh ones."""
    kept = job.partial / TOKENIZER
    state = shards.read_state(job.partial)
    if state is not None and state.settings == wanted:
        try:
            stored = load(json.loads(kept.read_text(encoding="utf-8"))) if kept.exists() else None
        except ValueError:
            stored = None
        if found := job.fixed or stored:
            job.listener.note(f"going on from {count(state.tokens)} tokens, in {job.partial}")
            return found, state
    shards.clear(job.partial)
    state = _fresh(job, wanted, int(job.val_fraction * TOP))
    if job.fixed is not None:
        return job.fixed, state
    tokenizer = _trained(job)
    shards.write_json(kept, tokenizer.spec())
    return tokenizer, state


def _fresh(job: Job, wanted: dict[str, Any], threshold: int) -> State:
    return State(wanted, threshold, [Counts() for _ in job.names])


def _trained(job: Job) -> Tokenizer:
    """A tokenizer of the text itself: all of its characters, or pairs of its training part."""
    split = job.split(int(job.val_fraction * TOP))

    def texts(most: float) -> Iterator[str]:
        seen = 0
        for piece in job.source.read(None, Counter()):
            if job.tokenizer == "char" or split.place(piece) != VAL:
                yield piece.text
                seen += len(piece.text)
            if seen >= most and piece.last:
                return

    most = SAMPLE if job.tokenizer in SIZED else (job.target_tokens or math.inf)
    made = "learning a vocabulary" if job.tokenizer in SIZED else "collecting the characters"
    job.listener.note(f"{made} of the text")
    end = None if job.source.one else END_OF_TEXT
    found = train(job.tokenizer, texts(most), job.request.vocab_size or BPE_SIZE, end)
    special = job.request.special
    return found if special is None else with_special(found, special)


def _fill_both_splits(job: Job, tokenizer: Tokenizer, state: State) -> State:
    """Write all shards; where hashing left a split empty, do it over with a document in each."""
    _fill(job, tokenizer, state)
    if not state.tokens:
        raise UserError(f"{job.request.source} has no text to learn from")
    if not job.source.one and not _both(state):
        keys = shards.document_keys(job.partial)
        low, high = int(keys.min()) + 1, int(keys.max())
        del keys  # the file is about to be written again
        if low > high:
            raise UserError(
                f"{job.request.source} holds one document only ({state.documents} times): it "
                "cannot be split by documents; as a plain text file it is split at a position"
            )
        job.listener.note("few documents: one is moved so that both splits have some")
        threshold = min(max(state.threshold, low), high)
        state = _fresh(job, state.settings, threshold)
        _fill(job, tokenizer, state)
    for name, counts in zip(job.names, state.shards, strict=True):
        if not counts.tokens:
            raise UserError(
                f"{name} would be empty: {state.documents} documents are too few for "
                f"--shards {job.request.shards} and --val-fraction {job.val_fraction:g}"
            )
    return state


def _both(state: State) -> bool:
    return bool(state.shards[VAL].tokens) and any(shard.tokens for shard in state.shards[VAL + 1 :])


def _fill(job: Job, tokenizer: Tokenizer, state: State) -> None:
    """Read from the state's cursor to the end, or to the tokens wanted; commits on the way."""
    tally = Counter(state.tally)
    end_id = None if job.source.one else tokenizer.eot
    pieces = job.source.read(state.cursor, tally)
    itemsize = token_dtype(tokenizer.vocab_size).itemsize
    committed = time.monotonic()
    with (
        closing(ShardWriter(job.partial, job.names, itemsize, state)) as writer,
        encoder(tokenizer, end_id, processes(job)) as encoded,
    ):
        for block, ids in encoded(blocks(pieces, job.split(state.threshold))):
            if job.target_tokens and state.tokens + sum(ids.lengths) >= job.target_tokens:
                wanted = job.target_tokens - state.tokens
                if (last := _trimmed(block, ids, tokenizer, end_id, wanted)) is not None:
                    writer.add(*last)
                    tally = Counter(block.mark.tally) if block.mark else tally
                    break
            writer.add(block, ids)
            _report(job, state, block.mark)
            if block.mark and time.monotonic() - committed >= COMMIT_EVERY:
                writer.commit(block.mark.cursor, block.mark.tally)
                committed = time.monotonic()
        writer.sync()
    state.tally = dict(tally)
    _report(job, state, None)


def _trimmed(
    block: Block, ids: Encoded, tokenizer: Tokenizer, end_id: int | None, wanted: int
) -> tuple[Block, Encoded] | None:
    """The block up to the first document that brings `wanted` tokens; None where it goes on."""
    so_far = 0
    for i, (part, length) in enumerate(zip(block.parts, ids.lengths, strict=True), start=1):
        so_far += length
        if part.last and so_far >= wanted:
            short = Block(block.parts[:i])
            return short, encode(tokenizer, short.parts, end_id)
    return None


def _report(job: Job, state: State, mark: Mark | None) -> None:
    if job.target_tokens:
        done = min(state.tokens, job.target_tokens)
        job.listener.progress(done, job.target_tokens, "tokens")
    elif mark is not None:
        job.listener.progress(mark.done, job.source.size, job.source.unit)
    elif job.source.size is not None:
        job.listener.progress(job.source.size, job.source.size, job.source.unit)


def processes(job: Job) -> int:
    """As asked; otherwise several where the text is worth their start."""
    if job.request.processes is not None:
        return job.request.processes
    size = job.source.text_bytes
    return 1 if size is not None and size < WORTH_A_PROCESS else min(os.cpu_count() or 1, 8)


def describe(job: Job, tokenizer: Tokenizer, state: State) -> None:
    """Write meta.json, and leave nothing else beside the shards."""
    entries = shards.describe(job.partial, job.names, state)
    tally = dict(state.tally)
    source = job.source.identity()
    if read_from := _read_from(tally, state.documents):
        source["read_from"] = read_from
    documents = {"train": 1, "val": 1} if job.source.one else _by_split(entries, "documents")
    documents["duplicates"] = shards.duplicates(job.partial)
    documents |= {key: tally.get(key, 0) for key in ("blank", "skipped")}
    meta = {
        "format": FORMAT,
        "dtype": token_dtype(tokenizer.vocab_size).name,
        "vocab_size": tokenizer.vocab_size,
        "tokens": _by_split(entries, "tokens"),
        "characters": _by_split(entries, "characters"),
        "bytes": _by_split(entries, "bytes"),
        "documents": documents,
        "replaced": tally.get("replaced", 0),
        "fallback": None if fallback(tokenizer) is None else _by_split(entries, "fallback"),
        "max_id": max(entry["max_id"] for entry in entries),
        "source": source,
        "split": job.split(state.threshold).rule(),
        "shards": entries,
        "settings": {key: item for key, item in state.settings.items() if key != "source"},
        "tokenizer": tokenizer.spec(),
    }
    shards.clear(job.partial, keep=set(job.names))
    shards.write_json(job.partial / META, meta)


def _read_from(tally: Mapping[str, int], documents: int) -> dict[str, int]:
    """How many of the documents each source gave, in their order; some read were not needed."""
    found = {}
    for key, given in tally.items():
        if key.startswith("from ") and documents:
            found[key.removeprefix("from ")] = kept = min(given, documents)
            documents -= kept
    return found


def _by_split(entries: Sequence[dict[str, Any]], what: str) -> dict[str, int]:
    return {
        split: sum(entry[what] for entry in entries if entry["split"] == split)
        for split in ("train", "val")
    }
