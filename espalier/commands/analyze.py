"""`espalier analyze RUN|DIR`: what a model does inside, and tables of many runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from espalier import console
from espalier.analyze.views import TAKES, Asked
from espalier.errors import UserError
from espalier.starting import uncollected

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from espalier.api import Loaded
    from espalier.data.tokens import Tokens

FORMAT = "espalier-analyze-1"
NOTHING = Asked()
ONCE = Parameter(negative=())
MANY = Parameter(negative=(), consume_multiple=False)
SHORT = (
    "run",
    "status",
    "best_loss",
    "best_step",
    "step",
    "nans",
    "parameters",
    "recipe",
    "config",
)
Sized = dict[str, Any]
View = Literal[
    "neurons", "activations", "weights", "checkpoints",
    "attention", "heads", "lens", "attribution", "patching", "ablation", "top", "probe",
    "similarity",
]  # fmt: skip


@Parameter(name="*")
@dataclass(frozen=True)
class On:
    """What to look at, and on which text."""

    steps: str | None = None
    """Checkpoints: all, or numbers with commas; the newest when left out."""
    against: Path | None = None
    """Another run: what differs is shown too."""
    only: str = "*"
    """Modules or weights whose path fits this pattern, such as *.ffn*."""
    corpus: Path | None = None
    """Whose validation windows to pass through the model; the run's own when left out."""
    windows: int = 32
    """How many of them, evenly spread."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; the best there is when left out."""


@Parameter(name="*")
@dataclass(frozen=True)
class Shown:
    """How tables are shown."""

    sort: str | None = None
    """Columns with commas; rows without a value come last."""
    reverse: Annotated[bool, ONCE] = False
    """Largest first."""
    filter: Annotated[tuple[str, ...], MANY] = ()
    """COLUMN<op>VALUE with = != < <= > >= or ~ (a pattern); may be given several times."""
    columns: str | None = None
    """Columns with commas, in this order."""
    csv: Path | None = None
    """Also write the table here."""
    figures: Annotated[bool, Parameter(negative="--no-figures")] = True
    """Draw into RUN/results/."""


def analyze(
    run: Path,
    /,
    *,
    view: View = "neurons",
    on: On = On(),
    asked: Annotated[Asked, Parameter(name="*")] = NOTHING,
    shown: Shown = Shown(),
) -> dict[str, Any]:
    """Look inside a run, or list all runs below a directory; results stand in RUN/results/.

    Example: espalier analyze runs --view checkpoints --sort best_loss --filter "nans=0"

    Parameters
    ----------
    run
        A run, one of its checkpoint folders, nanoGPT's ckpt.pt or a Hugging Face directory; for
        checkpoints a directory of runs.
    view
        neurons: oscillation, silent features, coupling, competition. activations: statistics of
        what each module gives, and of attention's scores. weights: statistics of each tensor.
        checkpoints: a row for each run, without loading any weights. attention: patterns of heads.
        heads: previous-token, induction and duplicate-token scores. lens: what each layer would
        predict. attribution: what each part adds to a logit. patching, ablation: what a part or a
        head carries. top: what moves neurons most. probe: labels read from each layer. similarity:
        CKA of layers, or of two runs.
    """
    from espalier.analyze import tables, views

    views.check(view, asked)
    if view == "checkpoints":
        if on != On():
            raise UserError(
                "--view checkpoints reads no model: it takes --sort, --reverse, --filter, "
                "--columns and --csv"
            )
        return _checkpoints(run, shown)
    if on.windows < 1:
        raise UserError(f"--windows must be at least 1, got {on.windows}")
    if view == "neurons" and (on.against, on.only) != (None, "*"):
        raise UserError("--view neurons takes no --against and no --only")
    run, on = _resolved(run, on)
    if view in TAKES:
        return _inside(run, view, (on, asked), shown)
    look = {"neurons": _neurons, "activations": _activations, "weights": _weights}[view]
    found = {"format": FORMAT, "view": view, "run": str(run), **look(run, on)}
    if view == "neurons":
        _show_neurons(found["sections"], shown)
    else:
        show(tables.places(found), shown)
        _show_scores(found.get("scores", {}))
    return {**found, "files": _keep(run, found, shown)}


def _checkpoints(folder: Path, shown: Shown) -> dict[str, Any]:
    from espalier.analyze import checkpoints

    found = checkpoints.table(folder)
    return {"view": "checkpoints", "runs": show(found, shown, tuple(checkpoints.COLUMNS), SHORT)}


def show(
    found: Sequence[Mapping[str, Any]],
    shown: Shown,
    columns: tuple[str, ...] | None = None,
    usual: tuple[str, ...] | None = None,
) -> list[Mapping[str, Any]]:
    """Print the table as asked and write its CSV; the rows that are left, in order."""
    from espalier.analyze import rows
    from espalier.durable import write_asked

    columns = columns or tuple(dict.fromkeys(key for row in found for key in row))
    found = [{column: row.get(column) for column in columns} for row in found]
    for expression in shown.filter:
        found = rows.keep(found, expression, columns)
    by = [rows.known(name, columns) for name in _words(shown.sort)]
    found = rows.ordered(found, by, reverse=shown.reverse)
    chosen = [rows.known(name, columns) for name in _words(shown.columns)] or usual or columns
    for line in rows.text(found, chosen) if found else ["no rows"]:
        console.out(line)
    if shown.csv is not None:
        asked = chosen if shown.columns else columns
        write_asked(shown.csv, rows.as_csv(found, asked))
        console.say(f"wrote {shown.csv}")
    return list(found)


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _resolved(run: Path, on: On) -> tuple[Path, On]:
    """The run of a checkpoint folder, at that step; anything else as it is."""
    from espalier.run import MANIFEST

    step = run.name.rpartition("-")[2]
    if not (run / MANIFEST).is_file() or not step.isdecimal():
        return run, on
    return run.resolve().parent.parent, replace(on, steps=on.steps or str(int(step)))


def _steps(run: Path, wish: str | None) -> list[int | None]:
    """The checkpoints to look at, None for what is no run; UserError for one that is not there."""
    from espalier.run import Run

    if not (run / "config.yaml").is_file():
        if wish is not None:
            raise UserError(f"{run} is no run: it has no steps to choose from")
        return [None]
    opened = Run.open(run)
    newest = opened.latest()
    if newest is None:
        raise UserError(f"{run} has no sound checkpoint")
    if wish is None:
        return [int(newest.name.rpartition("-")[2])]
    if wish == "all":
        return [*opened.steps()]
    words = _words(wish)
    if not words or not all(word.isdecimal() for word in words):
        raise UserError(f"--steps takes all, or numbers with commas, not '{wish}'")
    lacking = [word for word in words if int(word) not in opened.steps()]
    if lacking:
        there = ", ".join(map(str, opened.steps()))
        raise UserError(f"{run} has no checkpoint of step {lacking[0]}. There are: {there}")
    return [int(word) for word in words]


def _open(run: Path, step: int | None, on: On) -> Loaded:
    with uncollected():
        from espalier import api
    return api.load(run, step=step, device=on.device)


def _text(loaded: Loaded, on: On, split: str = "val") -> tuple[Tokens, NDArray[np.int64], int]:
    """The windows to pass: tokens, starts, block size."""
    from espalier.data.corpus import Corpus
    from espalier.data.loader import windows
    from espalier.evaluate.loss import spread

    place = on.corpus or loaded.config.data.corpus
    if place is None:
        raise UserError("the run names no corpus: --corpus DIR")
    corpus, size = Corpus.open(place), loaded.config.model.block_size
    if corpus.vocab_size > (loaded.config.model.vocab_size or 0):
        raise UserError(
            f"{place} has {corpus.vocab_size} tokens, the model knows "
            f"{loaded.config.model.vocab_size}"
        )
    tokens = corpus.val if split == "val" else corpus.train
    return tokens, spread(windows(tokens, size), on.windows), size


def _neurons(run: Path, on: On) -> Sized:
    from espalier.analyze import neurons

    step = _steps(run, on.steps)[-1]
    loaded = _open(run, step, on)
    text = _text(loaded, on)
    return {"step": step, "windows": len(text[1]), "sections": neurons.figures(loaded.model, *text)}


def _activations(run: Path, on: On) -> Sized:
    from espalier.analyze import activations

    found: Sized = {"steps": {}, "scores": {}}
    mine: activations.Figures = {}
    for step in _steps(run, on.steps):
        loaded = _open(run, step, on)
        text = _text(loaded, on)
        mine = activations.outputs(loaded.model, *text, on.only)
        found["steps"][str(step or 0)] = mine
        found["scores"][str(step or 0)] = activations.scores(loaded.model, *text)
        found["windows"] = len(text[1])
    if not mine:
        raise UserError(f"no module fits --only '{on.only}'")
    if on.against is not None:
        other = _open(on.against, None, on)
        theirs = activations.outputs(other.model, *text, on.only)
        found |= {"against": str(on.against), "differences": activations.differences(mine, theirs)}
    return found


def _weights(run: Path, on: On) -> Sized:
    from espalier.analyze import weights

    held: dict[str, Tensor] = {}
    found: Sized = {"steps": {}}
    for step in _steps(run, on.steps):
        held = _tensors(run, step, on)
        found["steps"][str(step or 0)] = weights.figures(held)
    if not held:
        raise UserError(f"no weight fits --only '{on.only}'")
    if on.against is not None:
        theirs = _tensors(on.against, None, on)
        found |= {"against": str(on.against), "differences": weights.differences(held, theirs)}
    return found


def _inside(run: Path, view: str, wish: tuple[On, Asked], shown: Shown) -> Sized:
    """A view of `espalier.analyze.views`: its table, results and figures."""
    from espalier.analyze import views

    on, asked = wish
    if on.against is not None and view != "similarity":
        raise UserError(f"--view {view} takes no --against; it is for similarity")
    step = _steps(run, on.steps)[-1]
    loaded = _open(run, step, on)
    against = None if on.against is None else _open(on.against, None, on).model
    seen = views.Seen(
        loaded.model,
        loaded.config.model.block_size,
        loaded.config.model.vocab_size or 0,
        lambda split: _text(loaded, on, split)[:2],
        lambda: loaded.tokenizer,
        against,
        on.only,
        asked,
    )
    told = views.look(view, seen)
    found = {"format": FORMAT, "view": view, "run": str(run), "step": step, **told}
    show(found["rows"], shown)
    for path, why in found.get("without", {}).items():
        console.out(f"{path}: {why}")
    return {**found, "files": _keep(run, found, shown)}


def _tensors(run: Path, step: int | None, on: On) -> dict[str, Tensor]:
    """By path, those that fit the pattern."""
    from fnmatch import fnmatchcase

    from espalier.train import checkpoint

    held = checkpoint.tensors(_open(run, step, replace(on, device="cpu")).model)
    return {name: tensor for name, tensor in held.items() if fnmatchcase(name, on.only)}


def _show_scores(found: Mapping[str, Mapping[str, Any]]) -> None:
    from espalier.analyze import rows, tables

    listed = tables.scores(found)
    if listed:
        console.out()
    for line in rows.text(listed, tuple(listed[0])) if listed else ():
        console.out(line)


def _show_neurons(sections: Mapping[str, Any], shown: Shown) -> None:
    """A table for each kind of part; all of them as PART, FIGURE, VALUE in the CSV."""
    from espalier.analyze import rows, tables
    from espalier.durable import write_asked

    if shown.sort or shown.filter or shown.columns:
        raise UserError("--view neurons shows a table for each kind of part: no --sort, --filter …")
    listed = {name: tables.section(name, section) for name, section in sections.items()}
    for name, table in listed.items():
        console.out(f"{name}:")
        for line in rows.text(table, tuple(table[0])):
            console.out(f"  {line}")
    if not listed:
        console.out("no part of this model has anything to tell of its neurons")
    if "dendrites" in sections:
        redundant = sum(one["redundant"] for one in sections["dendrites"].values())
        console.out(f"redundant: {redundant:,} parameters of dendrites add no function")
    if shown.csv is not None:
        write_asked(shown.csv, rows.as_csv(tables.long(listed), ("part", "figure", "value")))
        console.say(f"wrote {shown.csv}")


def _keep(run: Path, found: Sized, shown: Shown) -> list[str]:
    """results/analyze-VIEW.json and its figures."""
    from espalier.durable import read_json
    from espalier.report import analysis
    from espalier.run import Run

    if not (run / "config.yaml").is_file():
        console.say(f"{run} is no run: results and figures are not kept")
        return []
    file = Run.open(run).result(f"analyze-{found['view']}", found)
    files = [file]
    if shown.figures:
        files += analysis.write(analysis.figures(read_json(file)), file.parent)
    console.say(f"wrote {file}" + (f" and {len(files) - 1} figures beside it" if files[1:] else ""))
    return [str(one) for one in files]
