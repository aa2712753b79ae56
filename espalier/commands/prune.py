"""`espalier prune RUN …`: models along a curve of levels, honestly measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from espalier import console
from espalier.errors import UserError
from espalier.units import count, duration, size

if TYPE_CHECKING:
    from espalier.compress.curve import Bench, Level, Plan
    from espalier.compress.slots import Pattern
    from espalier.data.corpus import Corpus
    from espalier.data.tokenizer.base import Tokenizer
    from espalier.experiment import Experiment
    from espalier.nn.gpt import GPT
    from espalier.run import Run

ONCE = Parameter(negative=())


@Parameter(name="*")
@dataclass(frozen=True)
class What:
    """Which weights go."""

    levels: str = "0,25,45,70,90"
    """Per cent of the prunable weights to take away."""
    method: str = "magnitude"
    """magnitude, wanda, sparsegpt, structured, random, or a part of your own."""
    scope: Literal["global", "layer", "row"] | None = None
    """Ranked together: all weights, each matrix, each output; the method's own when left out."""
    pattern: str | None = None
    """N:M, such as 2:4: N of M neighbours stay, in place of --levels."""
    include_head: Annotated[bool, ONCE] = False
    """The head's matrix takes part too."""
    include_embedding: Annotated[bool, ONCE] = False
    """The token embedding takes part too."""
    calibration: Path | None = None
    """A text or a corpus to look at; the run's training split when left out."""
    seed: int = 1337
    """Of random choices and of the order of fine-tuning data."""


@Parameter(name="*")
@dataclass(frozen=True)
class Then:
    """What follows at every level, the unpruned one included."""

    finetune_steps: int = 500
    """Updates with the masks held; 0 for none."""
    finetune_rate: float = 1e-4
    """Their learning rate, constant."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Of fine-tuning; the same for every model you want to compare."""
    eval_windows: int | None = None
    """Validation windows, evenly spread; all when left out."""
    speed_rounds: int = 5
    """Rounds of the clock beside the unpruned model; 0 for none."""
    samples: Annotated[bool, Parameter(negative="--no-samples")] = True
    """Write on from the twelve prompts."""


def prune(
    *runs: Path,
    what: What = What(),
    then: Then = Then(),
    corpus: Path | None = None,
    keep: Annotated[bool, ONCE] = False,
    out: Path | None = None,
    chart: Path | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Prune runs along a curve of levels; the results stand in RUN/results/prune.json.

    Example: espalier prune runs/shakespeare --levels 0,50,90 --method wanda --finetune-steps 200

    Interrupted, the same command goes on at the next level. espalier report RUN draws the charts.

    Parameters
    ----------
    runs
        One run or several; the same rule, levels and windows of text for all.
    corpus
        What to fine-tune on and to judge by; the run's own when left out.
    keep
        Keep each level's model as a run of its own: RUN-pruned-45.
    out
        What their names begin with, in place of RUN-pruned.
    chart
        A folder for charts with one curve for each of the runs: curve.svg, frontier.svg.
    device
        cpu, cuda, cuda:1, mps; the best there is when left out.
    """
    from espalier.train.setup import check_device

    if not runs:
        raise UserError("say which run: espalier prune RUN --levels 0,50,90")
    if out is not None and (not keep or len(runs) > 1):
        raise UserError("--out names the runs that --keep keeps, of one RUN")
    plan, where = _plan(what, then), check_device(device)
    window = _window(runs, corpus, charted=chart is not None)
    found = {}
    for place in runs:
        job = _Pruning(place, plan, corpus, where, window)
        found[str(place)] = job.go(_prefix(place, out) if keep else None, what, then)
    drawn = [] if chart is None else _draw(found, chart)
    return {"runs": found, "charts": [str(file) for file in drawn]}


def _window(runs: tuple[Path, ...], corpus: Path | None, *, charted: bool) -> int:
    """The shortest block among the runs, which all of them can read.

    UserError where they are to share a chart and each has a text of its own.
    """
    from espalier.config import decode
    from espalier.data.corpus import Corpus
    from espalier.experiment import Experiment
    from espalier.run import Run

    found = [decode(Experiment, Run.open(place).config) for place in runs]
    names = {str(corpus or one.data.corpus) for one in found if corpus or one.data.corpus}
    if charted and len({Corpus.open(name).digest for name in names}) > 1:
        raise UserError(f"one chart takes one text, these runs have {len(names)}: --corpus DIR")
    return min(one.model.block_size for one in found)


def _draw(found: dict[str, dict[str, Any]], folder: Path) -> list[Path]:
    """One chart for all runs, from their files; of each only the curve just asked for."""
    from espalier.report import pruning

    last = [Path(run).resolve().name for run in found]
    names = {
        name if last.count(name) == 1 else run: curve
        for name, (run, curve) in zip(last, found.items(), strict=True)
    }
    results = {
        name: {**content, "curves": [c for c in content["curves"] if _same(c, names[name])]}
        for name, content in pruning.read(
            {name: Path(curve["file"]) for name, curve in names.items()}
        ).items()
    }
    files = pruning.write(pruning.figures(results), folder)
    for file in files:
        console.out(f"wrote {file}")
    return files


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["settings"] == other["settings"])


def _plan(what: What, then: Then) -> Plan:
    """UserError for what has no meaning, before anything is opened."""
    from espalier.compress.curve import Plan, check
    from espalier.compress.finetune import Finetune
    from espalier.compress.slots import PruneConfig
    from espalier.config import decode, resolve

    kind = resolve(PruneConfig, what.method)
    if what.scope is not None and what.scope not in kind.scopes:
        raise UserError(f"{what.method} knows no --scope {what.scope}: {', '.join(kind.scopes)}")
    pattern = _pattern(what.pattern)
    if pattern is not None and (not kind.patterns or what.scope is not None):
        raise UserError("--pattern takes no --scope, and not the method structured")
    if then.finetune_steps < 0 or then.speed_rounds < 0 or (then.eval_windows or 1) < 1:
        raise UserError("--finetune-steps and --speed-rounds are 0 or more, --eval-windows 1")
    if what.method == "structured" and (what.include_head or what.include_embedding):
        raise UserError("structured takes units out of layers: leave --include-... out")
    levels = (
        (0.0, 100.0 - 100.0 * pattern.keep / pattern.group) if pattern else _levels(what.levels)
    )
    settings = {
        "steps": then.finetune_steps,
        "learning_rate": then.finetune_rate,
        "dtype": then.dtype,
    }
    chosen = {"head": what.include_head, "embedding": what.include_embedding}
    return Plan(
        method=kind(),
        scope=what.scope or kind.scopes[0],
        levels=check(levels),
        finetune=decode(Finetune, settings, "finetune"),
        pattern=pattern,
        include=frozenset(name for name, wanted in chosen.items() if wanted),
        seed=what.seed,
        rounds=then.speed_rounds,
    )


def _levels(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise UserError(
            f"--levels takes numbers with commas, such as 0,50,90, not '{text}'"
        ) from None


def _pattern(text: str | None) -> Pattern | None:
    from espalier.compress.slots import Pattern

    if text is None:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found or not 0 < int(found[1]) < int(found[2]):
        raise UserError(f"--pattern takes N:M with N below M, such as 2:4, not '{text}'")
    return Pattern(int(found[1]), int(found[2]))


def _prefix(run: Path, out: Path | None) -> Path:
    whole = run.resolve()
    return out or whole.with_name(f"{whole.name}-pruned")


class _Pruning:
    """One run along the curve."""

    run: Run

    def __init__(self, place: Path, plan: Plan, corpus: Path | None, device: str, window: int):
        from espalier.data.corpus import Corpus
        from espalier.experiment import open_run

        self.model: GPT
        self.experiment: Experiment
        self.tokenizer: Tokenizer
        self.model, self.experiment, self.tokenizer, self.run = open_run(place)
        self.plan, self.window = plan, window
        self.model.to(device).eval()
        name = corpus or self.experiment.data.corpus
        if name is None:
            raise UserError(f"{place} names no corpus to judge by: --corpus DIR")
        self.corpus: Corpus = Corpus.open(name)
        if self.corpus.vocab_size > (self.experiment.model.vocab_size or 0):
            raise UserError(
                f"{name} has {self.corpus.vocab_size} tokens, the model of {place} knows "
                f"{self.experiment.model.vocab_size}"
            )

    def go(self, prefix: Path | None, what: What, then: Then) -> dict[str, Any]:
        """Every level that is not there yet; the curve."""
        from espalier.compress import curve

        file = self.run.path / "results" / "prune.json"
        bench = self._bench(what, then)
        with self.run.lock():
            results = curve.read(file) | self._about()
            mine = curve.curve_of(results, self._settings(bench))
            done = {one["level"] for one in mine["levels"]}
            missing = tuple(level for level in self.plan.levels if level not in done)
            self._refuse(prefix, missing)
            console.out(_headline(self.run.path, self.plan, mine, missing))
            for level in self._walk(missing, bench):
                record = level.record
                if prefix is not None:
                    record |= {"run": str(self._keep(level, prefix))}
                results = curve.added(results, mine, record)
                mine = curve.curve_of(results, mine["settings"])
                self.run.result("prune", results)
                console.out(_line(record))
        console.out(f"{file}\nespalier report {self.run.path}")
        return {**mine, "file": str(file)}

    def _walk(self, levels: tuple[float, ...], bench: Bench) -> Iterator[Level]:
        from dataclasses import replace

        from espalier.compress import curve

        if not levels:
            return
        steps = self.plan.finetune.steps * len(levels)
        with console.progress(max(1, steps), "prune", "steps") as bar:

            def told(loss: float) -> None:
                bar.advance()
                bar.note(f"loss {loss:.4f}")

            plan = replace(self.plan, levels=levels)
            yield from curve.walk(self.model, self.experiment.model, plan, bench, told)

    def _bench(self, what: What, then: Then) -> Bench:
        from espalier.compress import calibration, writing
        from espalier.compress.curve import Bench
        from espalier.data.loader import windows
        from espalier.evaluate.loss import spread, window_losses

        block, corpus = self.window, self.corpus
        starts = spread(windows(corpus.val, block), then.eval_windows)
        if what.calibration is None:
            text = calibration.from_split(corpus.train, block)
        else:
            text = calibration.from_place(what.calibration, corpus, self.tokenizer, block)
        write: Callable[[GPT], list[dict[str, Any]]] = lambda model: []  # noqa: E731
        if then.samples:
            reach = self.experiment.model.block_size
            write = lambda model: writing.write(model, self.tokenizer, reach)  # noqa: E731
        about = {
            "corpus": corpus.digest,
            "validation": {"windows": len(starts), "block_size": block, "interval": "95 %, CLT"},
            "calibration": {
                "from": str(what.calibration or "training split"),
                "windows": len(text),
                "also_in_validation": calibration.overlap(text, corpus.val),
            },
        }
        losses = lambda model: window_losses(model, corpus.val, starts, block)  # noqa: E731
        return Bench(corpus.train, text, losses, write, about, block)

    def _settings(self, bench: Bench) -> dict[str, Any]:
        """Of the curve: the plan, the texts and the very weights."""
        from espalier.run import weights_digest

        folder = self.run.latest()
        assert folder is not None
        weights = weights_digest(folder)
        return {**self.plan.settings(), "texts": dict(bench.about), "weights": weights}

    def _about(self) -> dict[str, Any]:
        from espalier.compress.curve import layout
        from espalier.provenance import environment

        found = {"run": self.run.path.resolve().name, "environment": environment()}
        neurons = layout(self.model)
        return found | ({"layout": neurons} if neurons else {})

    def _refuse(self, prefix: Path | None, levels: tuple[float, ...]) -> None:
        for level in levels if prefix else ():
            place = _kept_at(prefix, level) if prefix else Path()
            if place.exists():
                raise UserError(f"{place} exists already; choose another --out")

    def _keep(self, level: Level, prefix: Path) -> Path:
        """An ordinary run with one checkpoint and its parent noted."""
        from espalier.config import encode, refine
        from espalier.provenance import environment
        from espalier.run import Run
        from espalier.train import checkpoint

        newest = self.run.latest()
        assert newest is not None
        parent = {"run": str(self.run.path.resolve()), "checkpoint": newest.name}
        shape = refine(self.experiment, {"model": encode(level.pruned.config)})
        place = _kept_at(prefix, level.record["level"])
        made = Run.create(place, encode(shape), environment(parent=parent, data=self.corpus.digest))
        with made.lock():
            made.speak(self.tokenizer.spec(), self.run.path)
            loss = level.record["loss"]["mean"]
            step = int(newest.name.rpartition("-")[2])
            made.commit(step, checkpoint.writer(level.pruned.model), {"val_loss": loss})
            made.result("pruned", {**parent, **self.plan.settings(), **level.record})
        return place


def _kept_at(prefix: Path, level: float) -> Path:
    return prefix.with_name(f"{prefix.name}-{level:g}")


def _headline(run: Path, plan: Plan, curve: dict[str, Any], missing: tuple[float, ...]) -> str:
    kept = f", {len(curve['levels'])} levels are there already" if curve["levels"] else ""
    todo = ", ".join(f"{level:g} %" for level in missing) or "nothing left to do"
    return f"{run}: {plan.method.name}, ranked by {plan.scope}: {todo}{kept}"


def _line(record: dict[str, Any]) -> str:
    loss, sizes, speed = record["loss"], record["bytes"], record.get("speed")
    spread = "" if loss["low"] is None else f" ({loss['low']:.4f} to {loss['high']:.4f})"
    fast = f", decoding {speed['decode']['ratio']:.2f} x" if speed else ""
    taken = ", ".join(f"{kind} {n:,}" for kind, n in record["removed"].items() if n)
    return (
        f"{record['level']:g} %: loss {loss['mean']:.4f}{spread}, perplexity "
        f"{record['perplexity']:.3f}, {count(record['parameters']['nonzero'])} of "
        f"{count(record['parameters']['total'])} parameters not zero, {size(sizes['dense'])} on "
        f"disk ({size(sizes['sparse'])} without zeros){fast}"
        f"{', taken out: ' + taken if taken else ''}, {duration(record['seconds'])}"
    )
