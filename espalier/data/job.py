"""A request made definite: source, tokenizer, shares; and whether the work is needed at all."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from espalier.data import shards, sources
from espalier.data.corpus import Corpus
from espalier.data.download import Retry
from espalier.data.pieces import Source
from espalier.data.request import BPE_SIZE, Listener, Request
from espalier.data.sources.plugins import Documents
from espalier.data.sources.records import TEXT_KEY
from espalier.data.sources.textfile import TextFiles
from espalier.data.split import ByHash, ByPosition, Split, fractions, shard_names
from espalier.data.tokenizer import (
    ALIASES,
    NAMES,
    PUBLISHED,
    SIZED,
    TRAINED,
    Tokenizer,
    choose,
)
from espalier.data.tokenizer.special import with_special
from espalier.data.tokens import token_dtype
from espalier.durable import digest
from espalier.errors import MachineError, UserError
from espalier.units import size

LONG = 1 << 29  # bytes that take more than a moment to read


@dataclass(frozen=True)
class Job:
    """A request with everything that it leaves open filled in."""

    request: Request
    source: Source
    tokenizer: str
    fixed: Tokenizer | None
    """The tokenizer, unless it is made from the text."""
    val_fraction: float
    target_tokens: int | None
    expected_tokens: int | None
    listener: Listener

    @property
    def partial(self) -> Path:
        return self.request.out.with_name(self.request.out.name + ".partial")

    @property
    def names(self) -> list[str]:
        return shard_names(self.request.shards)

    def split(self, threshold: int) -> Split:
        if isinstance(self.source, TextFiles) and self.source.one:
            return ByPosition(self.val_fraction, self.source.edges)
        return ByHash(self.val_fraction, threshold, self.request.shards)


def plan(request: Request, listener: Listener, retry: Retry | None) -> Job:
    """Find the source and the tokenizer; reads local files once, writes nothing."""
    retry = retry or Retry(note=listener.note)
    found = sources.find(request, listener.note, retry)
    name = request.tokenizer or found.tokenizer
    _refuse_idle(request, name, found.source)
    val_fraction = request.val_fraction or found.val_fraction
    target = request.target_tokens or found.target_tokens
    source = found.source
    if isinstance(source, TextFiles) and (whole := source.on_disk) > LONG:
        listener.note(f"reading {size(whole)} once, to check it before anything is written")
    if isinstance(source, TextFiles) and source.one:
        if request.target_tokens is not None:
            raise UserError("--target-tokens is for many documents; one text is taken whole")
        source = _divided(source, request, val_fraction)
    if found.expected:
        listener.note(f"{request.source}, as a whole: {found.expected}")
    fixed = found.own or _fixed(request, name, None if source.one else 256, retry)
    if fixed is not None and fixed.eot is None and not source.one:
        listener.note(f"{name} has no end-of-text token: documents run into each other")
    tokens = target or found.tokens
    return Job(request, source, name, fixed, val_fraction, target, tokens, listener)


def _fixed(request: Request, name: str, end: int | None, retry: Retry) -> Tokenizer | None:
    """The tokenizer, unless it is made from the text."""
    if name in TRAINED:
        return None
    found = choose(name, request.vocab, end, retry)
    return found if request.special is None else with_special(found, request.special)


def _refuse_idle(request: Request, tokenizer: str, source: Source) -> None:
    """UserError for an option that would change nothing."""
    if request.vocab_size is not None and tokenizer not in SIZED:
        raise UserError(
            f"--vocab-size is for --tokenizer bpe or sentencepiece, which are trained here; "
            f"{tokenizer} has its own"
        )
    published = tokenizer in (*PUBLISHED, *ALIASES) or tokenizer.startswith("hf:")
    if request.vocab is not None and not published:
        raise UserError(f"--vocab is for a published tokenizer; {tokenizer} needs no vocabulary")
    if request.special is not None and request.tokenizer is None and tokenizer not in NAMES:
        raise UserError(f"--special does not go with {tokenizer}: choose a --tokenizer")
    if isinstance(source, (TextFiles, Documents)):
        for name, given in (
            ("--text-key", request.text_key),
            ("--skip-bad", request.bad == "skip"),
        ):
            if given:
                raise UserError(
                    f"{name} is for records (.jsonl, .parquet, hf:ID); {request.source} is text"
                )


def settings(job: Job) -> dict[str, Any]:
    """All that decides the corpus' bytes, in JSON."""
    request = job.request
    tokenizer: dict[str, Any] = {"name": job.tokenizer}
    if job.fixed is not None:
        text = json.dumps(job.fixed.spec(), sort_keys=True)
        tokenizer["sha256"] = hashlib.sha256(text.encode("utf-8")).hexdigest()
    if job.tokenizer in SIZED:
        tokenizer["vocab_size"] = request.vocab_size or BPE_SIZE
    if request.special is not None and job.fixed is None:
        tokenizer["special"] = digest(request.special)
    return {
        "source": job.source.identity(),
        "tokenizer": tokenizer,
        "val_fraction": job.val_fraction,
        "target_tokens": job.target_tokens,
        "shards": request.shards,
        "text_key": request.text_key or TEXT_KEY,
        "errors": request.errors,
        "bad": request.bad,
    }


def already(job: Job, wanted: dict[str, Any]) -> Corpus | None:
    """The same corpus, finished before; None when there is work; UserError when `out` is taken."""
    out = job.request.out
    if not shards.taken(out) or job.request.existing == "overwrite":
        return None
    corpus = Corpus.open(out)
    made = _made(corpus)
    if made == wanted:
        job.listener.note(f"{out} is this very corpus already: nothing to do")
        return corpus
    other = [key for key in wanted if made.get(key) != wanted[key]]
    raise UserError(
        f"{out} holds another corpus (other {', '.join(other)}): choose another --out, or pass "
        "--overwrite to replace it"
    )


def _made(corpus: Corpus) -> dict[str, Any]:
    """The settings of a finished corpus, as `settings` gives them."""
    source = {key: item for key, item in corpus.meta["source"].items() if key != "read_from"}
    return {"source": source, **corpus.meta.get("settings", {})}


def check_disk(job: Job) -> None:
    """MachineError when the shards are not going to fit, by a cautious guess."""
    wide = job.fixed is not None and token_dtype(job.fixed.vocab_size).itemsize == 4
    per_token = 1.0 if job.tokenizer in ("char", "byte") else 2.5  # bytes of text
    tokens = job.expected_tokens or (job.source.text_bytes or 0) / per_token
    need = tokens * (4 if wide else 2)
    home = next(parent for parent in job.request.out.resolve().parents if parent.exists())
    free = shutil.disk_usage(home).free
    if need > free:
        raise MachineError(f"about {size(need)} are needed in {home}, {size(free)} are free")
    if need > 1e9:
        job.listener.note(f"about {size(need)} will be written")


def _divided(source: TextFiles, request: Request, val_fraction: float) -> TextFiles:
    divided = source.divided(fractions(val_fraction, request.shards))
    ends = [0, *divided.edges, int(divided.size)]
    if any(first >= second for first, second in pairwise(ends)):
        raise UserError(
            f"{request.source} has {sum(source.surveys[0].counts)} characters: "
            f"--val-fraction {val_fraction:g} and --shards {request.shards} leave a part empty"
        )
    return divided
