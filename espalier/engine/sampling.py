"""From logits to the next token: penalty, temperature, filters, and where the chance comes from.

The order is: repetition penalty, temperature, top-k, top-p, min-p; each filter sees what the one
before it left. What is left becomes probabilities by softmax, or by another of attention's scores.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from espalier.engine.scores import named, shares
from espalier.errors import UserError

MAX_SEED = 2**63 - 1
# Logits divided by both stay finite in float32; the temperatures and penalties that people use are
# far inside.
COLDEST, HOTTEST = 1e-30, 1e30
MILDEST, HARSHEST = 1e-2, 1e2


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Raises UserError for a value that has no meaning."""

    temperature: float = 1.0
    """logits are divided by it; 0 takes the likeliest token"""
    top_k: int | None = None
    """keep the k likeliest (and those level with the k-th)"""
    top_p: float | None = None
    """keep the smallest set of likeliest tokens that holds at least this probability"""
    min_p: float | None = None
    """keep tokens at least this probable, relative to the likeliest"""
    repetition_penalty: float = 1.0
    """makes tokens that already stand in the row less likely; 1 is off"""
    penalty: Literal["signed", "published"] = "signed"
    """signed: divide positive logits, multiply negative ones (CTRL, arXiv:1909.05858);
    published: divide whatever the sign, as some published samplers do (raises negative logits)"""
    score: str | None = None
    """what makes probabilities of what is left: a score of attention, by name, or
    {name: NAME, FIELD: VALUE}; None: softmax"""
    seed: int = 1337
    rng: Literal["rows", "nanogpt"] = "rows"
    """rows: a stream for each row; nanogpt: one stream for all, drawn as nanoGPT draws"""

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise UserError(f"{name} must be a finite number, got {value}")
        if self.temperature != 0 and not COLDEST <= self.temperature <= HOTTEST:
            raise UserError(
                f"temperature must be 0 (greedy), or from {COLDEST:g} to {HOTTEST:g}, "
                f"got {self.temperature}"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise UserError(f"min_p must be from 0 to 1, got {self.min_p}")
        if not MILDEST <= self.repetition_penalty <= HARSHEST:
            raise UserError(
                f"repetition_penalty must be from {MILDEST:g} to {HARSHEST:g} (1 is off), "
                f"got {self.repetition_penalty}"
            )
        if self.score is not None:
            named(self.score)
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"seed must be from 0 to {MAX_SEED}, got {self.seed}")


def allowed(
    logits: Float[Tensor, "rows vocab"], vocab_size: int | None
) -> Float[Tensor, "rows vocab"]:
    """-inf for ids at or above `vocab_size`; UserError for logits that are not numbers."""
    if not logits.amax(-1).isfinite().all():
        raise UserError("the model's logits are not finite: its weights hold NaN or infinity")
    if vocab_size is None or vocab_size >= logits.shape[-1]:
        return logits
    logits = logits.clone()
    logits[:, vocab_size:] = -math.inf
    return logits


def penalise(
    logits: Float[Tensor, "rows vocab"],
    seen: Bool[Tensor, "rows vocab"],
    penalty: float,
    mode: Literal["signed", "published"],
) -> Float[Tensor, "rows vocab"]:
    """Lower the logits of tokens that were seen (modes: see `Sampling.penalty`)."""
    lowered = logits / penalty
    if mode == "signed":
        lowered = torch.where(logits > 0, lowered, logits * penalty)
    return torch.where(seen, lowered, logits)


def keep_top_k(logits: Float[Tensor, "rows vocab"], k: int) -> Float[Tensor, "rows vocab"]:
    """-inf for all below the k-th; tokens level with it stay, as in nanoGPT."""
    least = logits.topk(min(k, logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < least, -math.inf)


def keep_top_p(logits: Float[Tensor, "rows vocab"], p: float) -> Float[Tensor, "rows vocab"]:
    """-inf for all but the smallest set of likeliest tokens that holds p (arXiv:1904.09751)."""
    ordered, order = logits.sort(descending=True, stable=True)
    share = ordered.double().softmax(-1)
    before = share.cumsum(-1) - share
    out = (before >= p).scatter(1, order, before >= p)
    out.scatter_(1, order[:, :1], False)  # the likeliest stays even where rounding says otherwise
    return logits.masked_fill(out, -math.inf)


def keep_min_p(logits: Float[Tensor, "rows vocab"], p: float) -> Float[Tensor, "rows vocab"]:
    """-inf for tokens less probable than p times the likeliest (arXiv:2407.01082)."""
    if p == 0:
        return logits
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(p), -math.inf)


def probabilities(
    logits: Float[Tensor, "rows vocab"],
    sampling: Sampling,
    seen: Bool[Tensor, "rows vocab"] | None = None,
) -> Float[Tensor, "rows vocab"]:
    """What the next token is drawn from; greedy puts all of it on the first of the likeliest."""
    if seen is not None and sampling.repetition_penalty != 1:
        logits = penalise(logits, seen, sampling.repetition_penalty, sampling.penalty)
    if sampling.temperature == 0:
        best = logits.argmax(-1, keepdim=True)
        return torch.zeros_like(logits).scatter_(1, best, 1.0)
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None and sampling.top_p < 1:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = keep_min_p(logits, sampling.min_p)
    return logits.softmax(-1) if sampling.score is None else shares(logits, sampling.score)


def shortlist(
    logits: Float[Tensor, "rows vocab"], sampling: Sampling
) -> tuple[Float[Tensor, "rows k"], Int[Tensor, "rows k"]] | None:
    """Probabilities of the tokens that top-k lets through, and their ids in rising order.

    Zeros are all that `probabilities` would add, so that a draw by rising id gives the same token.
    None where all tokens stay, or where more than k do because some are level with the k-th.
    """
    k = sampling.top_k
    if k is None or k >= logits.shape[-1] or sampling.temperature == 0:
        return None
    values, ids = logits.topk(k + 1)
    values = values / sampling.temperature
    if (values[:, -2] == values[:, -1]).any():
        return None
    ids, order = ids[:, :-1].sort(-1)
    rest = replace(sampling, temperature=1.0, top_k=None, repetition_penalty=1.0)
    return probabilities(values.gather(1, order), rest), ids


def choose(
    logits: Float[Tensor, "n vocab"],
    sampling: Sampling,
    chance: Source,
    rows: Sequence[int],
    seen: Bool[Tensor, "n vocab"] | None = None,
) -> Int[Tensor, " n"]:
    """The next token of each of `rows`."""
    if seen is not None and sampling.repetition_penalty != 1:
        logits = penalise(logits, seen, sampling.repetition_penalty, sampling.penalty)
    if sampling.temperature == 0:
        return logits.argmax(-1)
    short = shortlist(logits, sampling) if chance.by_rising_id else None
    if short is None:
        return chance.draw(probabilities(logits, sampling), rows)
    probs, ids = short
    return ids.gather(1, chance.draw(probs, rows)[:, None])[:, 0]


class Source(Protocol):
    """Where chance comes from."""

    by_rising_id: bool
    """tokens that cannot come may be left out of `probs`"""

    def draw(self, probs: Tensor, rows: Sequence[int]) -> Tensor:
        """One token for each of `rows`, from its line of `probs`."""


class RowStreams:
    """A stream for each row, so that what else stands in the batch does not change a row's tokens.

    `streams[row]` names the row's stream: rows that name the same one draw the same numbers.
    """

    BLOCK = 64
    by_rising_id = True

    def __init__(self, seed: int, streams: Sequence[str], device: torch.device):
        self.device, self.streams = device, list(streams)
        self.generators = {n: _generator(seed, n) for n in dict.fromkeys(streams)}
        self.at, self.noise = self.BLOCK, torch.empty(0)

    def draw(self, probs: Float[Tensor, "n vocab"], rows: Sequence[int]) -> Int[Tensor, " n"]:
        if self.at == self.BLOCK:
            self._refill()
        where = torch.tensor(rows, device=self.device)
        u = self.noise[where, self.at, None]
        self.at += 1
        below = probs.to(self.device).double().cumsum(-1)
        return torch.searchsorted(below, u * below[:, -1:], right=True)[:, 0].to(probs.device)

    def uniform(self) -> float:
        """A number from [0, 1) of the first row's stream."""
        if self.at == self.BLOCK:
            self._refill()
        self.at += 1
        return float(self.noise[0, self.at - 1])

    def _refill(self) -> None:
        """Numbers are drawn on the CPU, so that a seed means the same on every device."""
        drawn = {
            n: torch.rand(self.BLOCK, generator=g, dtype=torch.float64)
            for n, g in self.generators.items()
        }
        self.noise = torch.stack([drawn[n] for n in self.streams]).to(self.device)
        self.at = 0


class NanoGPTStream:
    """One generator and one `torch.multinomial` for all rows: what nanoGPT's `generate` draws."""

    by_rising_id = False

    def __init__(self, seed: int, device: torch.device):
        self.generator = torch.Generator(device).manual_seed(seed)

    def draw(self, probs: Float[Tensor, "n vocab"], rows: Sequence[int]) -> Int[Tensor, " n"]:
        return torch.multinomial(probs, 1, generator=self.generator)[:, 0]


def desk(device: torch.device) -> torch.device:
    """Where tokens are chosen for a model there: in float64, which Apple's GPUs lack."""
    return torch.device("cpu") if device.type == "mps" else device


def source(sampling: Sampling, streams: Sequence[str], device: torch.device) -> Source:
    """The source that `sampling.rng` names; `streams[row]` is a row's stream."""
    if sampling.rng == "nanogpt":
        return NanoGPTStream(sampling.seed, device)
    return RowStreams(sampling.seed, streams, device)


def stream_name(prompt: Sequence[int], number: int) -> str:
    """The stream of the prompt's sample of this number."""
    return f"{list(prompt)}/{number}"


def _generator(seed: int, stream: str) -> torch.Generator:
    # hashed, because torch seeds from the low 32 bits only and neighbours would overlap
    mixed = hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:8]
    return torch.Generator().manual_seed(int.from_bytes(mixed, "little"))
