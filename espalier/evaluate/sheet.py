"""Everything that one model is asked; a record for each text, task, suite and measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from espalier.data.corpus import Corpus
from espalier.data.samples import Split
from espalier.data.settings import ImagesConfig
from espalier.engine.chat import Chat
from espalier.engine.loops import NoRepeat
from espalier.engine.sampling import Sampling
from espalier.engine.text import Session
from espalier.engine.weights import fitting
from espalier.errors import UserError
from espalier.evaluate import cells, ocr, speed
from espalier.evaluate.documents import Text
from espalier.evaluate.judging import Judge
from espalier.evaluate.suites import Suite
from espalier.train.precision import Precision, choose


@dataclass(frozen=True)
class Tasks:
    """Which of the harness' tasks, and how."""

    names: tuple[str, ...]
    folder: Path | None = None
    limit: int | None = None
    shots: int | None = None
    new: int | None = None


@dataclass(frozen=True)
class Pages:
    """Which pages, and how they are read."""

    images: ImagesConfig
    split: Split = "val"
    most: int | None = None
    new: int | None = None
    no_repeat: int | None = None
    """tokens of an n-gram that may not stand twice"""


@dataclass(frozen=True)
class Sheet:
    """The same questions for every model."""

    stride: int | None
    dtype: str
    rows: int
    seed: int
    watch: cells.Watch

    def read(self, session: Session, text: Text) -> cells.Cell:
        """Score a text."""
        how = cells.How(self.stride, self.seed, self._precision(session), self.watch)
        return cells.measure(session.model, session.tokenizer, session.block_size, text, how)

    def tasks(self, session: Session, asked: Tasks) -> dict[str, dict[str, Any]]:
        """Needs the extra `eval`."""
        from espalier.evaluate import harness

        adapter = harness.Adapter(session, self.rows, self.seed, self._precision(session).autocast)
        with self.watch("tasks", None, "requests") as done:
            adapter.between = done
            found = harness.evaluate(
                adapter,
                asked.names,
                folder=asked.folder,
                limit=asked.limit,
                shots=asked.shots,
                new=asked.new,
            )
        return {
            name: {**one, "limit": asked.limit, **self._basis(session)}
            for name, one in found.items()
        }

    def behaviour(self, session: Session, suites: Mapping[str, Suite]) -> dict[str, dict[str, Any]]:
        judge = Judge(session, self.rows, self._precision(session).autocast)
        count = sum(len(suite.items) for suite in suites.values())
        with self.watch("behaviour", count, "items") as done:
            return {
                name: {**judge(suite, self.seed, done), **self._basis(session)}
                for name, suite in suites.items()
            }

    def speed(self, session: Session, sizes: Sequence[int | None]) -> dict[str, Any]:
        """`sizes`: prompt and new tokens, None as they fit, and rows."""
        prompt, new, rows = sizes
        asked = speed.Sizes.fitting(session.block_size, prompt, new, rows or 1)
        weights = fitting(session.model, Sampling())
        return speed.measure(session.model, session.block_size, asked, weights)

    def ocr(self, session: Chat, corpus: Corpus, asked: Pages) -> dict[str, Any]:
        """Read the images of a corpus."""
        front = session.model.trunk.front
        if front is None:
            raise UserError("the model reads no images: it has no model.front")
        found = ocr.questions(corpus, asked.images, asked.split, asked.most)
        fitting = ocr.fitting(session, found)
        if not fitting:
            raise UserError(
                f"{corpus.path}: no page fits the model's block of {session.block_size} tokens"
            )
        rule = None if asked.no_repeat is None else NoRepeat(asked.no_repeat)
        with self.watch(f"reading {corpus.path}", len(fitting), "pages") as done:
            how = ocr.How(
                self.rows, asked.new, rule, self._precision(session).autocast, between=done
            )
            pages = list(ocr.read(session, fitting, how))
        alike = ocr.cosine(front, fitting)
        told = ocr.record(pages, len(found) - len(fitting), alike, self.seed)
        return {**told, "split": asked.split, "no_repeat": asked.no_repeat, **self._basis(session)}

    def _precision(self, session: Session) -> Precision:
        count = sum(parameter.numel() for parameter in session.model.parameters())
        return choose(self.dtype, str(next(session.model.parameters()).device), count)

    def _basis(self, session: Session) -> dict[str, Any]:
        """What the numbers rest on."""
        return {
            "context": session.block_size,
            "dtype": self._precision(session).short,
            "seed": self.seed,
            "batch_size": self.rows,
            "tokenizer": session.tokenizer.spec()["name"],
            "threads": torch.get_num_threads(),
        }


def checked(stride: int | None, rows: int, counts: Mapping[str, int | None]) -> None:
    """UserError for a number without a meaning."""
    for name, value in {"--stride": stride, "--batch-size": rows, **counts}.items():
        if value is not None and value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
