"""How near a model's transcript comes to what stands on the page.

Edits are Levenshtein's: characters or words put in, left out or exchanged. Rates over many pages
are all edits over all that stands on them (Morris et al. 2004), so they can be above 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from espalier.errors import need
from espalier.intervals import Interval, ratio, wilson


class Match(NamedTuple):
    """One page."""

    exact: bool
    """alike to the letter, space around it left out"""
    edits: int
    """of characters"""
    characters: int
    """that stand on the page"""
    word_edits: int
    words: int
    ned: float
    """edits over the longer text's length, OmniDocBench's measure: 0 = alike, 1 = nothing alike"""
    overlap: float
    """nano-deepseek-ocr's measure: which share of the page's different words occurs at all"""


def match(truth: str, found: str) -> Match:
    """Compare a transcript with the truth. Needs the extra `vision`."""
    distance = need("rapidfuzz.distance", "vision").Levenshtein.distance
    truth, found = truth.strip(), found.strip()
    right, read = truth.split(), found.split()
    edits = distance(truth, found)
    known = set(truth.lower().split())
    return Match(
        exact=truth == found,
        edits=edits,
        characters=len(truth),
        word_edits=distance(right, read),
        words=len(right),
        ned=edits / max(1, len(truth), len(found)),
        overlap=len(known & set(found.lower().split())) / max(1, len(known)),
    )


class Rates(NamedTuple):
    """Many pages together, each with its interval over pages."""

    exact: Interval
    """share of pages"""
    cer: Interval
    """edits of characters over the characters of all pages"""
    wer: Interval
    ned: Interval
    """mean over pages, as is overlap"""
    overlap: Interval


def rates(matches: Sequence[Match], seed: int) -> Rates:
    """Of one page at least; `seed` is the bootstrap's."""
    columns = np.array(matches, np.float64).T
    exact, edits, characters, word_edits, words, ned, overlap = columns
    each = np.ones(len(matches))
    return Rates(
        exact=wilson(int(exact.sum()), len(matches)),
        cer=ratio(edits, characters, seed),
        wer=ratio(word_edits, words, seed),
        ned=ratio(ned, each, seed),
        overlap=ratio(overlap, each, seed),
    )
