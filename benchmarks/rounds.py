"""What the benchmarks share: interleaved rounds, medians, ratios, and a dated page of results."""

import datetime
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import torch
from table import Claim, stated

from espalier import device

RESULTS = Path(__file__).parent / "results"
Step = Callable[[], object]


def spent() -> tuple[int, int]:
    """Ticks that this machine's processors worked, and those a host gave to others meanwhile."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return 0, 0
    ticks = stat.read_text(encoding="utf-8").split()[1:9]
    user, nice, system, _, _, irq, soft, stolen = (int(n) for n in ticks)
    return user + nice + system + irq + soft, stolen


_worked, _stolen = spent()


def load_module(file: Path) -> ModuleType:
    """A peer's module, from a checkout outside this repository."""
    spec = importlib.util.spec_from_file_location(f"peer_{file.parent.name}_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def interleaved(
    sides: Mapping[str, Step], threads: tuple[int, ...] = (1, 2), rounds: int = 7, steps: int = 3
) -> dict[str, tuple[float, int]]:
    """Seconds a step (median over rounds) and the thread count, each side at its better one."""
    found: dict[tuple[str, int], list[float]] = {}
    for step in sides.values():
        step()
    for _ in range(rounds):
        for count in threads:
            torch.set_num_threads(count)
            for name, step in sides.items():
                step()  # the first after a change of threads wakes them
                start = time.perf_counter()
                for _ in range(steps):
                    step()
                found.setdefault((name, count), []).append((time.perf_counter() - start) / steps)
    medians = {key: statistics.median(times) for key, times in found.items()}
    best = {name: min(threads, key=lambda count: medians[name, count]) for name in sides}
    return {name: (medians[name, best[name]], best[name]) for name in sides}


def page(name: str, title: str, lines: list[str], claims: Sequence[Claim] = ()) -> None:
    """Print the lines and write them to results/, with date, machine and commit.

    `claims` go into the README's table (`python benchmarks/table.py`).
    """
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    worked, stolen = spent()
    worked, stolen = worked - _worked, stolen - _stolen
    lost = f", {100 * stolen / (worked + stolen):.0f} % of their time went to others" * (stolen > 0)
    head = [
        f"# {title}",
        "",
        (
            f"{day}, commit {commit}, torch {torch.__version__}, {device.cpu_name()}, "
            f"{device.cores()} cores{lost}. `python benchmarks/{Path(sys.argv[0]).name}`"
        ),
        "",
    ]
    text = "\n".join([*head, *lines, *stated(list(claims))]) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
