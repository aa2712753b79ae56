"""`espalier demo`: the main job on text that every Python brings along."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier import console
from espalier.errors import UserError, need
from espalier.units import count, duration

if TYPE_CHECKING:
    from espalier.data.corpus import Corpus

SOURCE = "python-stdlib"
PROMPTS = ("import ", "class ", "    def ")
SAMPLE_TOKENS = 160


def demo(*, out: Path = Path("runs/demo"), data: Path = Path("data") / SOURCE) -> dict[str, Any]:
    """Prepare, train, sample, report: a small GPT on Python's own standard library, in minutes.

    Safe to run again: what is there is gone on with, and a finished run is shown again.

    For example:

        espalier demo

    Args:
        out: The run's directory.
        data: The corpus' directory.
    """
    start = time.perf_counter()
    need("matplotlib", "plots")  # before minutes of training, not after
    console.say(f"1/4  prepare {SOURCE}: this Python's own source files")
    corpus = _prepare(data)
    console.say(f"2/4  train the recipe `demo` on {count(len(corpus.train))} tokens")
    _train(corpus.path, out)
    console.say("3/4  sample")
    samples = _sample(out)
    console.say("4/4  report\n")
    found = _losses(out) | {"run": out, "samples": samples, "report": _report(out)}
    for number, text in enumerate(samples, 1):
        console.out(f"--- sample {number}\n{text}\n")
    console.out(
        f"validation loss {found['before']:.3f} before training, {found['after']:.3f} after"
    )
    console.out(f"report: {found['report']}")
    console.out(f"the run: {out}; more of it: espalier sample {out} --prompt 'def '")
    console.say(f"done in {duration(time.perf_counter() - start)}")
    return found


def _prepare(place: Path) -> "Corpus":
    from espalier.data.prepare import prepare
    from espalier.data.request import Listener, Request

    return prepare(Request(source=SOURCE, out=place), Listener(note=console.say))


def _train(corpus: Path, out: Path) -> None:
    """Train, or go on with what an earlier demo left."""
    from espalier.experiment import load
    from espalier.fit import fit
    from espalier.train.events import Started

    plan = load("demo", [f"data.corpus={corpus}"])
    again = (out / "config.yaml").exists()
    if again:
        console.say(f"{out} is there already: going on with it; remove it to begin afresh")
    try:
        events = fit(plan, out, resume=again)
        first = next(event for event in events if isinstance(event, Started))
        console.say(
            f"{count(first.parameters)} parameters, {first.horizon:,} steps of "
            f"{first.tokens_per_step:,} tokens, {first.device} with {first.threads} threads, "
            f"{first.precision}"
        )
        with console.progress(first.horizon - first.step, "train", "steps") as bar:
            tell = _teller(bar, first.step)
            for event in events:
                tell(event)
    except UserError as error:
        raise UserError(f"{error}\n(remove {out} for a fresh start)" if again else error) from None


def _teller(bar: console.Progress, step: int) -> Callable[[object], None]:
    """Shows events on a progress bar; remembers the step that it stands at."""
    from espalier.train.events import Evaluated, Noted, Stepped

    validation = ""

    def tell(event: object) -> None:
        nonlocal step, validation
        if isinstance(event, Noted):
            console.say(event.message)
        if isinstance(event, Evaluated):
            validation = f", validation {event.val_loss:.3f}"
            bar.note(f"loss {event.train_loss:.3f}{validation}")
        if isinstance(event, Stepped):
            bar.note(f"loss {event.loss:.3f}{validation}")
            bar.advance(event.step - step)
            step = event.step

    return tell


def _sample(run: Path) -> list[str]:
    from espalier import api

    loaded = api.load(run, device="cpu")
    texts = loaded.generate(PROMPTS, SAMPLE_TOKENS, temperature=0.8, top_k=50, seed=1)
    return [prompt + text for prompt, text in zip(PROMPTS, texts, strict=True)]


def _losses(run: Path) -> dict[str, Any]:
    from espalier.run import Run

    losses = [record["val_loss"] for record in Run.open(run).metrics() if record["kind"] == "eval"]
    return {"before": losses[0], "after": losses[-1]}


def _report(run: Path) -> Path:
    from espalier import report

    return report.write(run)
