"""A study on disk: the runs, which are the truth, and study.jsonl, the record of what happened."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from espalier import lock
from espalier.config import encode
from espalier.durable import finite, read_json, rename, write_whole
from espalier.errors import ConfigError, UserError
from espalier.run import Run
from espalier.study.axis import words
from espalier.tree import dump, read_yaml

if TYPE_CHECKING:
    from espalier.study.plan import Trial  # brings torch, which a reader has no use for

RECORD = "study.jsonl"
COMPLETE, FAILED, KILLED, INTERRUPTED, STARTED = (
    "COMPLETE",
    "FAILED",
    "KILLED",
    "INTERRUPTED",
    "STARTED",
)

# What decides the vocabulary where nobody sets it.
VOCABULARY, CORPUS = "model.vocab_size", ("data.corpus", "data.mixture", "train.init")
LONGEST = 60  # characters of a value in an error

Record = dict[str, Any]
Difference = tuple[str, Any, Any]
"""a path, and what stands there in one tree and in another"""


class Keyed(Protocol):
    """A trial, or what stands for one where only its name is needed."""

    @property
    def key(self) -> str: ...


class Book:
    """STUDY/{study.jsonl, trials/KEY.yaml, runs/KEY/}; one process at a time writes.

    `lease` names a sweep whose engine gives a run to one process at a time, wherever it is: see
    `espalier.lock`.
    """

    def __init__(self, place: Path, lease: str = ""):
        self.place, self.lease = place, lease

    @contextlib.contextmanager
    def held(self, trials: Sequence[Trial]) -> Iterator[None]:
        """The right to write, with the record brought up to what the runs of `trials` say.

        UserError names a living owner.
        """
        for folder in (self.place / "trials", self.place / "runs"):
            folder.mkdir(parents=True, exist_ok=True)
        with lock.hold(self.place / "lock"):
            self._settle(trials)
            yield

    def refuse_others(self, trials: Sequence[Trial]) -> None:
        """ConfigError where a finished run stands here that is none of this study's.

        One is of the study that differs from some trial only where the settings of its runs, or of
        `trials`, say so, and in the seed: by them a table tells its rows apart. The error names the
        first other path of the nearest trial.
        """
        records, known = self.records(), {trial.key for trial in trials}
        settings = [record["settings"] for record in records] + [one.settings for one in trials]
        varied = {"seed", *(path for one in settings for path in one)}
        if any(path.startswith(CORPUS) for path in varied):
            varied.add(VOCABULARY)
        trees = [encode(trial.experiment) for trial in trials]
        for key in dict.fromkeys(one["key"] for one in records if one["state"] == COMPLETE):
            file = configuration(self.place, key)
            if key in known or not file.is_file() or outcome(self.place / "runs" / key) is None:
                continue
            tree = read_yaml(file).tree
            if all(any(_differences(tree, other, varied)) for other in trees):
                found = min(([*_differences(tree, other, varied)] for other in trees), key=len)
                raise ConfigError(_refusal(self.place, found))

    def run(self, trial: Keyed) -> Path:
        """The run's directory, whether or not it has begun."""
        return self.place / "runs" / trial.key

    def recipe(self, trial: Trial) -> Path:
        """The trial's whole configuration as a file, written where it is not there yet."""
        file = self.beside(trial, "yaml")
        if not file.is_file():
            write_whole(file, dump(encode(trial.experiment)))
        return file

    def beside(self, trial: Keyed, kind: str) -> Path:
        """trials/KEY.yaml, .log (said), .json (printed), .tries (where it began)."""
        return self.place / "trials" / f"{trial.key}.{kind}"

    def outcome(self, trial: Keyed) -> Record | None:
        """The summary that a run leaves when it has come to its end."""
        return outcome(self.run(trial))

    def inherit(self, trial: Trial, parent: str) -> None:
        """Begin a run as a copy of that of the key `parent`, unless it has begun already.

        The copy has the trial's own configuration, and shares the checkpoints' bytes on the disk.
        """
        source = self.place / "runs" / parent
        if self.begun(trial) or not (source / "config.yaml").is_file():
            return
        working = self.run(trial).with_suffix(".tmp")
        shutil.rmtree(working, ignore_errors=True)
        apart = shutil.ignore_patterns("results", "samples", "lock*", "*.tmp-*", "*.was")
        shutil.copytree(source, working, ignore=apart, copy_function=_shared)
        write_whole(working / "config.yaml", dump(encode(trial.experiment)))
        rename(working, self.run(trial))

    def begun(self, trial: Keyed) -> bool:
        return (self.run(trial) / "config.yaml").is_file()

    def owned(self, trial: Keyed) -> bool:
        """Whether a living process writes this run, such as one that outlived its sweep."""
        return lock.owner_of(self.run(trial) / "lock", self.lease) is not None

    def step(self, trial: Keyed) -> int:
        """Of the newest checkpoint; -1 when there is none."""
        steps = Run(self.run(trial), {}).steps()
        return steps[-1] if steps else -1

    def note(self, state: str, trial: Trial, **fields: Any) -> None:
        """Append one record."""
        record = {
            "state": state,
            "key": trial.key,
            "configuration": trial.configuration,
            "seed": trial.seed,
            "settings": trial.settings,
            **fields,
            "time": time.time(),
        }
        line = json.dumps(finite(record), ensure_ascii=False, allow_nan=False) + "\n"
        with (self.place / RECORD).open("ab") as stream:
            stream.write(line.encode("utf-8"))

    def records(self) -> list[Record]:
        """Every record; a last line torn by a crash is left out."""
        file = self.place / RECORD
        lines = file.read_bytes().split(b"\n")[:-1] if file.is_file() else []
        try:
            return [dict(json.loads(line)) for line in lines]
        except (ValueError, TypeError):
            raise UserError(f"{file} is damaged: a line in it is no JSON object") from None

    def _settle(self, trials: Sequence[Trial]) -> None:
        """One COMPLETE for each run that has come to its end, and none without such a run."""
        kept: dict[str, Record] = {}
        for number, record in enumerate(self.records()):
            complete = record["state"] == COMPLETE
            if not complete:
                kept[str(number)] = record
            elif outcome(self.place / "runs" / record["key"]) is not None:
                kept.setdefault(record["key"], record)
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in kept.values())
        write_whole(self.place / RECORD, "".join(lines))
        for trial in trials:
            summary = self.outcome(trial)
            if summary is not None and trial.key not in kept:
                self.note(COMPLETE, trial, **told(summary))


def configuration(place: Path, key: str) -> Path:
    """Where the whole configuration of a trial of the study at `place` stands."""
    written = place / "trials" / f"{key}.yaml"
    return written if written.is_file() else place / "runs" / key / "config.yaml"


def _differences(old: Any, new: Any, varied: Set[str], at: str = "") -> Iterator[Difference]:
    """What differs between two trees; nothing at a path in `varied`, or below it."""
    if at in varied or old == new:
        return
    parts = isinstance(old, Mapping) and isinstance(new, Mapping)
    if parts and old.get("name") == new.get("name"):
        for key in {**old, **new}:
            below = f"{at}.{key}" if at else key
            yield from _differences(old.get(key), new.get(key), varied, below)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differences(one, other, varied, f"{at}.{index}")
    else:
        yield at, old, new


def _refusal(place: Path, found: Sequence[Difference]) -> str:
    """By the first difference; a vocabulary is the last, because it follows from a corpus."""
    path, old, new = min(found, key=lambda one: one[0] == VOCABULARY)
    return (
        f"{path} is {_said(old)} in the runs of {place} and {_said(new)} here, and the study does "
        "not vary it: one table would rank both. Choose another directory with --out, or have the "
        f"file vary {path}"
    )


def _said(value: Any) -> str:
    named = isinstance(value, Mapping) and "name" in value
    text = words(value["name"] if named else value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _shared(source: str, target: str) -> None:
    """A checkpoint's files are never written again, so that one copy serves two runs."""
    if "checkpoints" in Path(source).parts:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)


def outcome(run: Path) -> Record | None:
    file = run / "results" / "train.json"
    return dict(read_json(file)) if file.is_file() else None


def told(summary: Record) -> Record:
    """What the record repeats of a run's summary."""
    names = ("reason", "parameters", "step", "tokens", "seconds", "val_loss", "best_val_loss")
    return {name: summary.get(name) for name in names}


def is_study(place: Path) -> bool:
    return (place / RECORD).is_file()
