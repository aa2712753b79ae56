"""The sections in their order, each a process with its own time; results after each."""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.scale import Place, Scale
from espalier import device

Section = Callable[[Scale, Place], Iterator[dict[str, object]]]
TOTAL = 525.0  # seconds for everything
ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Act:
    """Sections that run at the same time, and how long they may; alone where speed is measured."""

    seconds: float
    sections: tuple[str, ...]


RECIPES = ("gpt2", "gpt2-medium", "biogpt", "biogpt-reference", "wigglegpt")
ACTS = (
    Act(150, ("parts", "recipes", "compile", "recorded", *(f"warm {name}" for name in RECIPES))),
    Act(25, ("machine",)),
    Act(75, ("train gpt2",)),
    Act(60, ("train gpt2-medium",)),
    Act(60, ("generate",)),
    Act(45, ("loss 1.88",)),
    Act(100, ("loss 1.47",)),
    Act(45, ("train biogpt",)),
    Act(45, ("train biogpt-reference",)),
    Act(45, ("train wigglegpt",)),
)


def find(name: str) -> Section:
    """The section of this name; torch is imported only where it runs."""
    from benchmarks.gpu import graphs, losses, numerics, speed

    named: dict[str, Section] = {
        "parts": numerics.parts,
        "recipes": numerics.recipes,
        "compile": graphs.compiled,
        "recorded": graphs.recorded,
        "machine": speed.limits,
        "generate": speed.generation,
        "loss 1.88": losses.until(0),
        "loss 1.47": losses.until(1),
    }
    for recipe in RECIPES:
        named[f"warm {recipe}"] = speed.warming(recipe)
        named[f"train {recipe}"] = speed.training(recipe)
    return named[name]


def perform(name: str, scale: Scale, place: Place) -> None:
    """In the section's own process: a line of JSON for each row, as soon as there is one."""
    from benchmarks.gpu.measure import peak_memory

    with rows_file(place, name).open("w", encoding="utf-8") as stream:

        def write(row: dict[str, object]) -> None:
            stream.write(json.dumps(row) + "\n")
            stream.flush()

        start = time.perf_counter()
        try:
            for row in find(name)(scale, place):
                write(row)
        except Exception:
            last = traceback.format_exc().strip().splitlines()[-1]
            write({"name": "the section itself", "ok": False, "why": last})
            traceback.print_exc()
        end = {"seconds": time.perf_counter() - start, "peak_gb": peak_memory(scale.device) / 1e9}
        write({"name": "end", "ok": None, **end})


def rows_file(place: Place, name: str) -> Path:
    return place.out / "rows" / f"{name.replace(' ', '-')}.jsonl"


def conduct(scale_name: str, place: Place, only: Sequence[str], told: Callable[[], None]) -> None:
    """Run every act (or the sections in `only`) against the clock; `told` after each."""
    (place.out / "rows").mkdir(parents=True, exist_ok=True)
    place.work.mkdir(exist_ok=True)
    end = time.monotonic() + TOTAL
    for act in ACTS:
        chosen = [name for name in act.sections if not only or name in only]
        deadline = min(time.monotonic() + act.seconds, end)
        threads = max(1, device.cores() // max(1, len(chosen)))
        running = {name: _start(name, scale_name, place, threads) for name in chosen}
        for name, process in running.items():
            _await(name, process, deadline, place)
        told()


def _start(name: str, scale_name: str, place: Place, threads: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "benchmarks.gpu", "--section", name, "--scale", scale_name]
    command += ["--out", str(place.out), *(["--text", str(place.text)] if place.text else [])]
    cache = {
        "TORCHINDUCTOR_CACHE_DIR": str(place.work / "inductor"),
        "TRITON_CACHE_DIR": str(place.work / "triton"),
        "TORCHINDUCTOR_COMPILE_THREADS": "4",
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    log = (place.out / "rows" / f"{name.replace(' ', '-')}.log").open("wb")
    return subprocess.Popen(
        command, stdout=log, stderr=log, env=os.environ | cache, cwd=ROOT, start_new_session=True
    )


def _await(name: str, process: "subprocess.Popen[bytes]", deadline: float, place: Place) -> None:
    """Wait for a section, or end it with all that it started."""
    try:
        code = process.wait(max(0.0, deadline - time.monotonic()))
        why = f"ended with code {code}" if code else ""
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        why = "out of time"
    if why:
        with rows_file(place, name).open("a", encoding="utf-8") as stream:
            row = {"name": "the section itself", "ok": False, "why": why}
            stream.write("\n" + json.dumps(row) + "\n")  # a line may have been cut short


def collect(place: Place) -> dict[str, list[dict[str, object]]]:
    """Rows of every section that has any, in the order of the acts."""
    found = {}
    for act in ACTS:
        for name in act.sections:
            file = rows_file(place, name)
            if file.is_file():
                found[name] = [
                    row for line in file.read_text("utf-8").splitlines() if (row := _row(line))
                ]
    return found


def _row(line: str) -> dict[str, object] | None:
    try:
        return dict(json.loads(line))
    except ValueError:
        return None
