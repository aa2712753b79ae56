"""Datasets of the Hugging Face hub, streamed: nothing is downloaded whole."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from espalier.data.download import Retry
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
    document; no other dataset takes its place then, so that a corpus never is a silent mixture.
    """

    datasets: tuple[Dataset, ...]
    rule: Rule
    note: Callable[[str], None]
    retry: Retry = field(default_factory=Retry)
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
        while True:
            dataset = self.datasets[index]
            state = cursor["state"] if cursor else None
            examples = self._examples(dataset, state)
            try:
                first = next(examples, None)
                break
            except Exception as error:
                if isinstance(error, MachineError) or cursor or index + 1 == len(self.datasets):
                    raise self._failed(dataset, error) from None
                index += 1
                self.note(f"{dataset.label}: {_reason(error)}; trying {self.datasets[index].label}")
        done = cursor["documents"] if cursor else 0
        place = {"dataset": index, "documents": done}
        if first is not None:
            yield from self._documents(dataset, chain([first], examples), place, tally)

    def _documents(
        self,
        dataset: Dataset,
        examples: Iterator[tuple[Any, Any]],
        place: dict[str, Any],
        tally: Counter[str],
    ) -> Iterator[Piece]:
        try:
            for done, (example, state) in enumerate(examples, start=place["documents"] + 1):
                text = self.rule.text(example, f"{dataset.label}, document {done}", tally)
                if text is None:
                    continue
                tally[f"from {dataset.label}"] += 1
                here = place | {"documents": done, "state": state}
                mark = None if state is None else Mark(here, done, dict(tally))
                yield from document(text, mark)
        except (UserError, MachineError):
            raise
        except Exception as error:
            raise self._failed(dataset, error) from None

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
                if failures >= self.retry.attempts or _lasting(error):
                    raise
                self.retry.sleep(self.retry.first * 2 ** (failures - 1))

    def _failed(self, dataset: Dataset, error: Exception) -> Exception:
        if isinstance(error, MachineError):
            return error
        if _lasting(error):
            return UserError(f"cannot stream {dataset.label}: {_reason(error)}.")
        return MachineError(
            f"cannot stream {dataset.label}: {_reason(error)}.\n"
            "Run the same command again to go on from here once the network is back; offline, "
            "prepare local files: espalier prepare FILE.jsonl"
        )


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


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).split("\n", maxsplit=1)[0].rstrip(".")
