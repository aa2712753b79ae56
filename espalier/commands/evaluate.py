"""`espalier evaluate RUN…`: what models are worth, side by side."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from espalier import console
from espalier.durable import finite, read_json, write_asked
from espalier.errors import UserError, need
from espalier.evaluate import tables
from espalier.starting import uncollected

if TYPE_CHECKING:
    from espalier.api import Loaded
    from espalier.engine.text import Session
    from espalier.evaluate.cells import Cell
    from espalier.evaluate.sheet import Sheet
    from espalier.evaluate.sheet import Tasks as Asked
    from espalier.run import Run

ONCE = Parameter(negative=())
FILE = "evaluate"  # results/evaluate.json


@Parameter(name="*")
@dataclass(frozen=True)
class What:
    """What is asked. Nothing: the validation text of each run's own corpus."""

    corpus: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True)] = ()
    """Prepared corpora (their validation split), text files, folders, .jsonl: whole documents."""
    tasks: str | None = None
    """Of lm-evaluation-harness, with commas: hellaswag,arc_easy; or of --task-path."""
    behaviour: str | None = None
    """Suites with commas, all, or .yaml files of your own."""
    speed: Annotated[bool, ONCE] = False
    """Reading and writing, in tokens per second."""
    ocr: Annotated[bool, ONCE] = False
    """What it reads in the images of --corpus, or of its own corpus; a page with all of them."""


@Parameter(name="*")
@dataclass(frozen=True)
class How:
    """How it is read."""

    stride: int | None = None
    """Tokens between the windows over a document; half the model's block when left out."""
    documents: int | None = None
    """At most so many documents of a text, evenly spread; all when left out."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Of matrix products."""
    batch_size: int = 16
    """Rows of tasks and suites in one pass; changes results by rounding at most."""
    seed: int = 1337
    """Of the bootstrap, and of a task's examples."""


@Parameter(name="*")
@dataclass(frozen=True)
class Tasks:
    """How tasks are put."""

    limit: int | None = None
    """At most so many items of each task; for a look only."""
    num_fewshot: int | None = None
    """Examples before each item; the task's own when left out."""
    task_path: Path | None = None
    """A folder of task files of your own, which need no network."""
    max_new_tokens: int | None = None
    """Of an answer: of --ocr, or where a task asks for more than the model's block holds."""
    no_repeat_ngram: int | None = None
    """Of --ocr: no so many tokens in a row twice among 90."""
    split: Literal["val", "train"] = "val"
    """Of --ocr: train shows what was learnt by heart, not whether it reads."""


@Parameter(name="*")
@dataclass(frozen=True)
class Clock:
    """Sizes of --speed."""

    prompt_tokens: int | None = None
    """Half the block when left out."""
    new_tokens: int | None = None
    """64, or what the block leaves."""
    rows: int = 1
    """Texts side by side."""


def evaluate(
    *runs: str,
    what: What = What(),
    how: How = How(),
    tasks: Tasks = Tasks(),
    clock: Clock = Clock(),
    step: int | None = None,
    tokenizer: str | None = None,
    device: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Evaluate models: loss, perplexity and bits per byte, tasks, behaviour, speed.

    Example: espalier evaluate runs/a runs/b --corpus data/shakespeare notes.txt --behaviour all

    Each run keeps its results in results/evaluate.json.

    Parameters
    ----------
    runs
        Runs, checkpoint folders, nanoGPT's ckpt.pt, Hugging Face directories or ids.
    step
        A checkpoint of the runs; the newest when left out.
    tokenizer
        For weights from elsewhere: meta.pkl, a corpus, a tokenizer.json or a name such as gpt2.
    device
        cpu, cuda, cuda:1, mps; the best there is when left out.
    out
        A file for all of it.
    """
    if not runs:
        raise UserError("say which model: espalier evaluate RUN")
    with uncollected():
        from espalier import api

    board = _Board(what, how, tasks, clock)
    for name in dict.fromkeys(runs):
        board.ask(name, api.load(name, step=step, tokenizer=tokenizer, device=device))
    for line in lines(board.found):
        console.out(line)
    board.refuse_if_nothing_came()
    if out is not None:
        write_asked(out, json.dumps(finite({"models": board.found}), indent=1) + "\n")
    return {"models": board.found}


class _Board:
    """The questions, and what each model answered."""

    def __init__(self, what: What, how: How, tasks: Tasks, clock: Clock):
        from espalier.evaluate import documents, sheet, suites

        numbers = {
            "--documents": how.documents,
            "--limit": tasks.limit,
            "--max-new-tokens": tasks.max_new_tokens,
            "--no-repeat-ngram": tasks.no_repeat_ngram,
        }
        sheet.checked(how.stride, how.batch_size, numbers)
        self.sheet = sheet.Sheet(how.stride, how.dtype, how.batch_size, how.seed, _watch)
        self.asked = None if what.tasks is None else _tasks(what.tasks, tasks)
        self.suites = {} if what.behaviour is None else suites.read(what.behaviour)
        self.sizes = (clock.prompt_tokens, clock.new_tokens, clock.rows) if what.speed else None
        self._text = cache(lambda place: documents.read(place, how.documents, console.say))
        self.corpora = () if what.ocr else what.corpus
        for place in self.corpora:  # a misspelt one costs nothing
            self._text(place)
        self.pages = _Pages(what.corpus, how.documents, tasks) if what.ocr else None
        others = what.tasks or what.behaviour or what.speed or what.ocr
        self.own = not (what.corpus or others)
        self.cells: dict[str, dict[str, Cell]] = {}
        self.found: dict[str, dict[str, Any]] = {}

    def ask(self, name: str, loaded: Loaded) -> None:
        """Everything, of one model; a run keeps its answers at once."""
        from espalier.evaluate.identity import identity

        session = loaded.session
        record: dict[str, Any] = identity(loaded.model, name)
        record["corpora"] = self._read(name, session, self._places(name, loaded))
        if self.sizes is not None:
            record["speed"] = self.sheet.speed(session, self.sizes)
        if self.asked is not None:
            record["tasks"] = self.sheet.tasks(session, self.asked)
        if self.suites:
            record["behaviour"] = self.sheet.behaviour(session, self.suites)
        if self.pages is not None:
            record["ocr"] = self.pages(self.sheet, name, loaded)
        self.found[name] = record
        if loaded.run is not None:
            keep(loaded.run, record)

    def _places(self, name: str, loaded: Loaded) -> tuple[str, ...]:
        return (own_corpus(name, loaded),) if self.own else self.corpora

    def _read(self, name: str, session: Session, places: tuple[str, ...]) -> dict[str, Any]:
        """A record for each text; where the model cannot read one, why."""
        from espalier.evaluate.cells import against

        mine = self.cells.setdefault(name, {})
        first, others = next(iter(self.cells.items()))
        found: dict[str, Any] = {}
        for place in places:
            text = self._text(place)
            try:
                cell = self.sheet.read(session, text)
            except UserError as error:
                found[place] = {"corpus": place, "refused": str(error)}
            else:
                mine[place], found[place] = cell, cell.record
                if name != first and place in others:
                    apart = against(cell, others[place], self.sheet.seed)
                    cell.record.update(against=apart, first=first)
        return found

    def refuse_if_nothing_came(self) -> None:
        """UserError where texts were all that was asked for, and no model could read one."""
        told = [one for record in self.found.values() for one in record["corpora"].values()]
        others = self.asked is not None or self.suites or self.sizes is not None or self.pages
        if not others and told and all("refused" in one for one in told):
            raise UserError(told[0]["refused"])


def own_corpus(name: str, loaded: Loaded) -> str:
    """The corpus that a run was trained on; UserError where it is not here."""
    place = loaded.config.data.corpus
    if place is None or not Path(place).is_dir():
        why = "names no corpus of its own" if place is None else f"has {place}: not here"
        raise UserError(f"{name} {why}. Say --corpus, --tasks, --behaviour or --speed")
    return place


@dataclass(frozen=True)
class _Pages:
    """Corpora with images, read by every model; a run keeps an HTML page of each."""

    corpora: tuple[str, ...]
    most: int | None
    tasks: Tasks

    def __call__(self, sheet: Sheet, name: str, loaded: Loaded) -> dict[str, Any]:
        from espalier.commands import chat
        from espalier.data.corpus import Corpus
        from espalier.evaluate.sheet import Pages

        session = chat.opened(loaded, chat.template_of(loaded, None))
        images = loaded.config.data.images
        put = self.tasks
        asked = Pages(images, put.split, self.most, put.max_new_tokens, put.no_repeat_ngram)
        found: dict[str, Any] = {}
        former = {} if loaded.run is None else kept(loaded.run).get("ocr", {})
        for place in self.corpora or (own_corpus(name, loaded),):
            record = sheet.ocr(session, Corpus.open(place), asked)
            if loaded.run is not None:
                file = loaded.run.path / "results" / free_name(place, former | found)
                record["html"] = str(_drawn(loaded.run, file, place, record))
            found[place] = record
        return found


def free_name(place: str, records: Mapping[str, Any]) -> str:
    """ocr-NAME.html, or with a number where another corpus of that name has it in `records`."""
    others = [one["html"] for corpus, one in records.items() if corpus != place and "html" in one]
    taken = {Path(file).name for file in others}
    stem = f"ocr-{Path(place).name}"
    names = (f"{stem}{end}.html" for end in chain([""], (f"-{i}" for i in count(2))))
    return next(name for name in names if name not in taken)


def _drawn(run: Run, file: Path, place: str, record: dict[str, Any]) -> Path:
    """The pages with their images beside the truth and what was read."""
    from espalier.durable import write_whole
    from espalier.report import transcripts

    write_whole(file, transcripts.page(f"{run.path.resolve().name} reads {place}", record))
    console.out(f"wrote {file}")
    return file


def _tasks(names: str, tasks: Tasks) -> Asked:
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported: we have our own bars
    from espalier.evaluate.sheet import Tasks as Asked

    words = tuple(word for word in re.split(r"[,\s]+", names) if word)
    if not words:
        raise UserError("--tasks takes names with commas: hellaswag,arc_easy")
    need("lm_eval", "eval")
    return Asked(words, tasks.task_path, tasks.limit, tasks.num_fewshot, tasks.max_new_tokens)


@contextmanager
def _watch(title: str, total: float | None, unit: str) -> Iterator[Callable[[int], None]]:
    with console.progress(total, title, unit) as bar:
        yield bar.advance


def kept(run: Run) -> dict[str, Any]:
    """What results/evaluate.json has already."""
    file = run.path / "results" / f"{FILE}.json"
    return read_json(file) if file.exists() else {}


def keep(run: Run, record: dict[str, Any]) -> None:
    """Into results/evaluate.json; of texts, tasks and suites that it has already, the newest."""
    former = kept(run)
    stamp = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **_of(record)}
    whole = {**former, "run": run.path.resolve().name}
    for kind in ("corpora", "tasks", "behaviour", "ocr"):
        news = {name: {**one, **stamp} for name, one in record.get(kind, {}).items()}
        whole[kind] = {**former.get(kind, {}), **news}
    if "speed" in record:
        whole["speed"] = {**record["speed"], **stamp}
    with run.lock():
        run.result(FILE, whole)


def _of(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("parameters", "weights_sha256")}


def lines(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """For people: each text, task and suite with the models under each other."""
    for kind, show in (
        ("corpora", tables.corpus),
        ("tasks", tables.task),
        ("behaviour", tables.behaviour),
        ("ocr", tables.ocr),
    ):
        names = dict.fromkeys(name for one in found.values() for name in one.get(kind, {}))
        for name in names:
            records = {
                model: one[kind][name] for model, one in found.items() if name in one.get(kind, {})
            }
            yield from show(name, records)
    if clocks := {model: one["speed"] for model, one in found.items() if "speed" in one}:
        yield from tables.speed(clocks)
