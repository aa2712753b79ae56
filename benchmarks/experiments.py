"""Four groups of experiments with a pretrained model, from one command.

    python benchmarks/experiments.py                       all four
    python benchmarks/experiments.py baseline behaviour    some of them

GPT-2 from the Hugging Face cache, or where it is not there a small one of its kind, with a million
parameters, trained here on this Python's standard library in a few minutes. Everything is a call of
`espalier`, shown with what it printed; docs/experiments.md says what each asks. Calling it again
repeats no training. Once all four are there, results/experiments.md is written.
"""

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

from rounds import page

from espalier.evaluate.suites import shipped

SHIPPED = Path(__file__).resolve().parent.parent / "examples" / "experiments"
SHOWN = 64  # lines of what a command prints
STAND_IN, SMALLER = "gpt-mini", ("model.n_layer=2", "model.n_embd=64")
TEXTS = ("data/code", "data/dialogue", "data/prose")
# A model of a million parameters learns in fewer, larger updates than `finetune` makes.
QUICK = (
    *("data.batch_size=8", "train.gradient_accumulation_steps=1", "train.max_iters=40"),
    *("train.warmup_iters=5", "train.eval_interval=20", "evaluate.eval_iters=24"),
)
RATE = "train.learning_rate=1e-3"


class Bench:
    """A folder with models and texts, and what was said there."""

    def __init__(self, folder: Path, model: str):
        self.folder, self.model, self.told = folder, model, list[str]()
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def quick(self) -> tuple[str, ...]:
        return QUICK if self.model == STAND_IN else ()

    def call(self, *words: str, said: int | None = None) -> str:
        """What `espalier WORDS` prints, run in the folder; ends the program where it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "espalier", *words],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode:
            why = f"ended with {done.returncode}\n{done.stdout}"
            raise SystemExit(f"espalier {shlex.join(words)} {why}")
        return done.stdout

    def show(self, *words: str) -> None:
        """Run it, and keep what it prints for the page."""
        said = self.call(*words).replace(f"{SHIPPED}/", "examples/experiments/").splitlines()
        more = [f"... {len(said) - SHOWN} lines more"] if len(said) > SHOWN else []
        command = shlex.join(words).replace(str(SHIPPED), "examples/experiments")
        lines = ["", "```", f"$ espalier {command}", *said[:SHOWN], *more, "```"]
        print("\n".join(lines), flush=True)
        self.told += lines

    def once(self, place: str, *words: str) -> None:
        """Run it unless what it makes is there."""
        if not (self.folder / place).exists():
            self.call(*words)

    def ask(self, *words: str) -> dict[str, object]:
        """What it gives as JSON; what it says to people is not shown."""
        return dict(json.loads(self.call(*words, "--json", said=subprocess.DEVNULL)))


def cached(bench: Bench) -> dict[str, str]:
    """Published models that are in the Hugging Face cache, and where."""
    listed = bench.ask("pretrained")["models"]
    assert isinstance(listed, list)
    return {one["name"]: one["cached"] for one in listed if one["cached"]}


def texts(bench: Bench, tokenizer: tuple[str, ...], plays: tuple[str, ...]) -> None:
    """Code, dialogue and technical prose, in one model's tokens; plays: where the dialogue is."""
    prose = bench.folder / "topics.txt"
    prose.write_text("\n\n".join(topics[name] for name in sorted(topics)), encoding="utf-8")
    bench.once("data/code/meta.json", "prepare", "python-stdlib", *tokenizer, "--out", "data/code")
    same = tokenizer or ("--tokenizer", "data/code")
    for source, out in ((("shakespeare", *plays), TEXTS[1]), (("topics.txt",), TEXTS[2])):
        bench.once(f"{out}/meta.json", "prepare", *source, *same, "--out", out)


def models(bench: Bench, plays: tuple[str, ...]) -> list[str]:
    """The texts, runs/base, and another size of model to set beside it."""
    if bench.model == STAND_IN:
        texts(bench, (), plays)
        for run, size in (("runs/base", ()), ("runs/smaller", SMALLER)):
            words = ("train", STAND_IN, "data.corpus=data/code", *size, "--out", run)
            bench.once(f"{run}/results/train.json", *words)
        return ["runs/base", "runs/smaller"]
    here = cached(bench)
    texts(bench, ("--tokenizer", here[bench.model]), plays)
    bench.once("runs/base", "import", bench.model, "--out", "runs/base")
    return ["runs/base", *(name for name in ("gpt2-medium",) if name in here)]


def domains(bench: Bench) -> tuple[str, ...]:
    """The command of the domain study."""
    rate = (RATE,) if bench.quick else ()
    return ("sweep", f"{SHIPPED}/domains.yaml", *bench.quick, *rate)


def adapted(bench: Bench) -> dict[str, str]:
    """Text -> the run of the domain study that began from the base and learnt it, with seed 1."""
    bench.call(*domains(bench))
    points = bench.ask("report", "studies/domains")["points"]
    assert isinstance(points, list)
    return {
        one["settings"]["data.corpus"]: f"studies/domains/runs/{one['configuration']}-s1"
        for one in points
        if one["settings"]["train.init"]
    }


def baseline(bench: Bench, compared: list[str]) -> None:
    """Loss on three kinds of text, sizes beside each other, speed."""
    bench.show("evaluate", *compared, "--corpus", *TEXTS, "--documents", "6", "--speed")


def finetuning(bench: Bench, compared: list[str]) -> None:
    """Domain adaptation and what it forgets, few-shot, sensitivity."""
    rate = (RATE,) if bench.quick else ()
    bench.show(*domains(bench))
    learnt = adapted(bench)
    bench.show(
        "evaluate",
        "runs/base",
        *(learnt[text] for text in TEXTS[1:]),
        "--corpus",
        *TEXTS,
        "--documents",
        "6",
    )
    bench.show("sweep", f"{SHIPPED}/few-shot.yaml", *bench.quick, *rate)
    bench.show("sweep", f"{SHIPPED}/sensitivity.yaml", *bench.quick)


def interpretability(bench: Bench, compared: list[str]) -> None:
    """Attention, what heads and parts carry, layers, neurons, probes, what fine-tuning changed."""
    run, text = "runs/base", ("--corpus", "data/code")
    look = ("analyze", run, "--view")
    bench.show(*look, "heads", "--sort", "induction", "--reverse", "--no-figures")
    bench.show(*look, "lens", "--tuned", *text, "--windows", "16")
    bench.show(*look, "patching", "--only", "*attention:*", "--sort", "best", "--reverse")
    bench.show(*look, "ablation", *text, "--sort", "effect")
    bench.show(*look, "top", *text, "--only", "*ffn.activation", "--windows", "16")
    bench.show(*look, "probe", *text)
    bench.show(*look, "similarity", "--against", adapted(bench)[TEXTS[1]], "--corpus", TEXTS[1])


def behaviour(bench: Bench, compared: list[str]) -> None:
    """Prompting, instructions, reasoning, facts, loops; and what code gives away."""
    own = ",".join(
        f"{SHIPPED}/{name}.yaml" for name in ("zero-shot", "one-shot", "four-shot", "code")
    )
    runs = [*compared, adapted(bench)[TEXTS[1]]]
    bench.show("evaluate", *runs, "--behaviour", f"{','.join(shipped())},{own}")


GROUPS: dict[str, Callable[[Bench, list[str]], None]] = {
    "baseline": baseline,
    "finetuning": finetuning,
    "interpretability": interpretability,
    "behaviour": behaviour,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("groups", nargs="*", help=", ".join(GROUPS))
    parser.add_argument("--out", type=Path, default=Path("experiments"), help="the folder to use")
    parser.add_argument("--model", help="gpt2, gpt2-medium ... or gpt-mini; else what is there")
    parser.add_argument("--from", dest="plays", type=Path, help="Shakespeare's text, if offline")
    asked = parser.parse_args()
    unknown = set(asked.groups) - GROUPS.keys()
    if unknown:
        parser.error(f"no group {min(unknown)}; there are {', '.join(GROUPS)}")
    bench = Bench(asked.out, asked.model or STAND_IN)
    if asked.model is None and "gpt2" in cached(bench):
        bench.model = "gpt2"
    compared = models(bench, ("--from", str(asked.plays.resolve())) if asked.plays else ())
    for name in asked.groups or GROUPS:
        run_group(bench, name, compared)
    sections = [bench.folder / f"{name}.md" for name in GROUPS]
    if all(file.is_file() for file in sections):
        told = [line for file in sections for line in file.read_text("utf-8").splitlines()]
        page("experiments", f"Four groups of experiments: {bench.model}", told)


def run_group(bench: Bench, name: str, compared: list[str]) -> None:
    """Into OUT/NAME.md, with the processor time that it took."""
    bench.told = []
    before = processor()
    GROUPS[name](bench, compared)
    spent = f"{(processor() - before) / 60:.1f} minutes of processor time in this call"
    head = [f"## {name.capitalize()}", "", f"{GROUPS[name].__doc__} {spent}."]
    (bench.folder / f"{name}.md").write_text("\n".join([*head, *bench.told, "", ""]), "utf-8")


def processor() -> float:
    """Seconds that the commands so far have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    os.environ.setdefault("NO_COLOR", "1")
    main()
