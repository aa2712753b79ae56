"""One model on one text: loss, perplexity and bits per byte with intervals, speed and memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from espalier.data.tokenizer.base import Tokenizer
from espalier.errors import UserError
from espalier.evaluate.documents import Ids, Text
from espalier.evaluate.memory import Peak
from espalier.evaluate.whole import token_nlls
from espalier.intervals import RESAMPLES, Numbers, difference, ratio
from espalier.nn.gpt import GPT
from espalier.train.precision import Precision

Watch = Callable[[str, float | None, str], AbstractContextManager[Callable[[int], None]]]
"""Of a title, a total and a unit: within it, what to call as work gets done."""


@dataclass(frozen=True)
class How:
    """How texts are read."""

    stride: int | None
    """half the model's block when None"""
    seed: int
    precision: Precision
    watch: Watch


@dataclass(frozen=True)
class Clusters:
    """What is drawn for the interval: nats, tokens and bytes of each document or block."""

    kind: str
    nats: Numbers
    tokens: Numbers
    bytes: Numbers


@dataclass(frozen=True)
class Cell:
    """What came out."""

    clusters: Clusters
    record: dict[str, Any]


def measure(model: GPT, tokenizer: Tokenizer, block_size: int, text: Text, how: How) -> Cell:
    """Score a text. UserError for a stride outside the block or a text it cannot write.

    Where the tokenizer has an end of text, it stands before each document and every token is
    scored; else a document's first token is given, and its bytes do not count.
    """
    stride = how.stride or max(1, block_size // 2)
    if stride > block_size:
        raise UserError(f"--stride {stride}: at most the model's block of {block_size} tokens")
    rows, given = prepared(text, tokenizer)
    precision, device = how.precision, next(model.parameters()).device
    total = sum(len(row) - 1 for row in rows)
    start = time.perf_counter()
    with how.watch(f"reading {text.name}", total, "tokens") as done, Peak(device) as peak:
        nats = token_nlls(
            model, rows, block_size, stride, autocast=precision.autocast, between=done
        )
    seconds = time.perf_counter() - start
    sizes = [max(0, one.size - lost) for one, lost in zip(text.documents, given, strict=True)]
    clusters = gathered(nats, rows, sizes, tokenizer, block_size)
    record = {
        "corpus": text.name,
        "text_sha256": text.digest,
        "documents": len(text.documents),
        "tokens": int(clusters.tokens.sum()),
        "bytes": int(clusters.bytes.sum()),
        "first_token": "given" if tokenizer.eot is None else "scored after an end of text",
        **figures(clusters, how.seed),
        "interval": {
            "level": 0.95,
            "by": "bootstrap",
            "over": clusters.kind,
            "clusters": len(clusters.nats),
            "resamples": RESAMPLES,
            "seed": how.seed,
        },
        "context": block_size,
        "stride": stride,
        "least_context": block_size - stride + 1,
        "dtype": precision.short,
        "tokenizer": tokenizer.spec()["name"],
        "seconds": seconds,
        "tokens_per_s": float(clusters.tokens.sum()) / seconds,
        "peak_bytes": peak.bytes,
        "device": str(device),
        "threads": torch.get_num_threads(),
    }
    return Cell(clusters, record)


def prepared(text: Text, tokenizer: Tokenizer) -> tuple[list[Ids], list[int]]:
    """Rows of ids whose first is not scored, and the bytes of a document that this loses."""
    spelled = text.spelled(tokenizer)
    if not any(len(ids) > (tokenizer.eot is None) for ids in spelled):
        raise UserError(f"{text.name} has no token to score")
    if tokenizer.eot is None:
        pairs = zip(spelled, text.documents, strict=True)
        return spelled, [_first_bytes(ids, one.text, tokenizer) for ids, one in pairs]
    end = np.array([tokenizer.eot], np.int64)
    return [np.concatenate([end, ids]) for ids in spelled], [0] * len(spelled)


def _first_bytes(ids: Ids, text: str, tokenizer: Tokenizer) -> int:
    """Bytes of the first token; 1 where it is a part of a character."""
    first = tokenizer.decode(ids[:1])
    return len(first.encode("utf-8")) if text.startswith(first) else 1


def gathered(
    nats: list[Numbers], rows: list[Ids], sizes: list[int], tokenizer: Tokenizer, block: int
) -> Clusters:
    """Documents as clusters; blocks of `block` tokens where there is one document."""
    if len(rows) > 1:
        tokens = np.array([len(one) for one in nats], np.float64)
        total = np.array([one.sum() for one in nats])
        return Clusters("documents", total, tokens, np.array(sizes, np.float64))
    cuts = np.arange(block, len(nats[0]), block)
    parts, ids = np.split(nats[0], cuts), np.split(rows[0][1:], cuts)
    # what a block's tokens spell when they stand alone, scaled so that the whole stays exact
    alone = np.array([len(tokenizer.decode(one).encode("utf-8")) for one in ids], np.float64)
    return Clusters(
        f"blocks of {block} tokens",
        np.array([part.sum() for part in parts]),
        np.array([len(part) for part in parts], np.float64),
        alone * (sizes[0] / alone.sum()),
    )


def figures(clusters: Clusters, seed: int) -> dict[str, Any]:
    """Loss in nats per token, its perplexity, bits per byte."""
    loss = ratio(clusters.nats, clusters.tokens, seed)
    bits = ratio(clusters.nats / math.log(2), clusters.bytes, seed)
    return {
        "loss": loss._asdict(),
        "perplexity": {
            name: None if nats is None else math.exp(min(nats, 700.0))
            for name, nats in loss._asdict().items()
        },
        "bits_per_byte": bits._asdict(),
    }


def against(cell: Cell, other: Cell, seed: int) -> dict[str, Any] | None:
    """Bits per byte less the other model's, on the same clusters; None where theirs differ."""
    mine, theirs = cell.clusters, other.clusters
    if mine.kind.split()[0] != theirs.kind.split()[0]:
        return None
    if not np.array_equal(mine.bytes, theirs.bytes):
        return None
    one, first = (side.nats / math.log(2) for side in (mine, theirs))
    return difference(one, first, mine.bytes, seed)._asdict()
