"""Datasets of the Hugging Face hub, streamed: nothing is downloaded whole."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from espalier.data.download import Retry, reason
from espalier.data.pieces import Mark, Piece
from espalier.data.sources.records import Rule, document
from espalier.errors import MachineError, UserError, need

MARK_EVERY = 64  # documents between two places to go on from
LASTING = ("DatasetNotFoundError", "DataFilesNotFoundError", "ValueError", "NotImplementedError")
"""Errors that another try does not mend: no such dataset, no such configuration or split."""


@dataclass(frozen=True)
class Dataset:
    """A dataset's address, in the words of `datasets.load_dataset`."""

    path: str
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    data_files: str | None = None

    @property
    def label(self) -> str:
        parts = [self.path, self.name, self.revision]
        return ":".join(part for part in parts if part)


@dataclass(frozen=True)
class Stream:
    """The first of `datasets` that answers, a document each example.

    When one fails midway it is asked again, with growing pauses, for what comes after the last
    document. If that does not help, another takes its place only where `midway` says so: a corpus
    never is a mixture that nobody asked for. How many documents each gave, in this order, is told.
    """

    datasets: tuple[Dataset, ...]
    rule: Rule
    note: Callable[[str], None]
    retry: Retry = field(default_factory=Retry)
    midway: Literal["stop", "next"] = "stop"
    one: bool = False
    size: float | None = None
    unit: str = "documents"
    text_bytes: int | None = None

    def identity(self) -> dict[str, Any]:
        return {
            "kind": "hub",
            "name": self.datasets[0].label,
            "candidates": [dataset.label for dataset in self.datasets],
            "split": self.datasets[0].split,
        }

    def read(self, cursor: dict[str, Any] | None, tally: Counter[str]) -> Iterator[Piece]:
        index = cursor["dataset"] if cursor else 0
        place = {"dataset": index, "documents": cursor["documents"] if cursor else 0}
        state = cursor["state"] if cursor else None
        while True:
            try:
                yield from self._documents(place, state, tally)
                return
            except _Failed as failed:
                index, error = place["dataset"], failed.error
                begun = place["documents"] > 0
                last = index + 1 == len(self.datasets)
                if last or isinstance(error, MachineError) or (begun and self.midway == "stop"):
                    raise self._failed(self.datasets[index], error) from None
                others = self.datasets[index + 1].label
                self.note(f"{self.datasets[index].label}: {reason(error)}; trying {others}")
                place, state = {"dataset": index + 1, "documents": 0}, None

    def _documents(self, place: dict[str, Any], state: Any, tally: Counter[str]) -> Iterator[Piece]:
        """From `place`, which counts the documents read; raises _Failed for what broke off."""
        dataset = self.datasets[place["dataset"]]
        examples = self._examples(dataset, state)
        while True:
            try:
                found = next(examples, None)
            except Exception as error:
                raise _Failed(error) from None
            if found is None:
                return
            example, state = found
            place["documents"] += 1
            done = place["documents"]
            text = self.rule.text(example, f"{dataset.label}, document {done}", tally)
            if text is None:
                continue
            tally[f"from {dataset.label}"] += 1
            mark = None if state is None else Mark(place | {"state": state}, done, dict(tally))
            yield from document(text, mark)

    def _examples(self, dataset: Dataset, state: Any) -> Iterator[tuple[Any, Any]]:
        """Examples after `state`, every 64th with the state after it; tries again on failure."""
        given = failures = 0  # `given`: examples handed out since `state`
        while True:
            try:
                stream = _open(dataset, state)
                for example in islice(stream, given, None):
                    given, failures = given + 1, 0
                    if given < MARK_EVERY:
                        yield example, None
                    else:
                        state, given = stream.state_dict(), 0
                        yield example, state
                return
            except Exception as error:
                failures += 1
                if _lasting(error) or not self.retry.again(failures, dataset.label, error):
                    raise

    def _failed(self, dataset: Dataset, error: Exception) -> Exception:
        if isinstance(error, MachineError):
            return error
        if _lasting(error):
            return UserError(f"cannot stream {dataset.label}: {reason(error)}.")
        return MachineError(
            f"cannot stream {dataset.label}: {reason(error)}.\n"
            "Run the same command again to go on from here once the network is back; offline, "
            "prepare local files: espalier prepare FILE.jsonl"
        )


class _Failed(Exception):  # noqa: N818
    """A dataset does not go on, for all the attempts."""

    def __init__(self, error: Exception):
        super().__init__()
        self.error = error


def _open(dataset: Dataset, state: Any) -> Any:
    """The dataset as a stream, standing behind `state`."""
    library = need("datasets", "data")
    library.disable_progress_bars()
    stream = library.load_dataset(
        dataset.path,
        dataset.name,
        split=dataset.split,
        revision=dataset.revision,
        data_files=dataset.data_files,
        streaming=True,
    )
    if state is not None:
        stream.load_state_dict(state)
    return stream


def _lasting(error: Exception) -> bool:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, (UserError, MachineError)) or bool(kinds & set(LASTING))
