"""How long a step takes when another program wants a core, by how long torch's threads wait awake.

    python benchmarks/busy.py

The model of `shakespeare-char-cpu`, two threads, in a process of its own for each setting of
GOMP_SPINCOUNT (libgomp's own default is 300,000; `espalier` sets 1,000), alone and beside one
program that computes without end.
"""

import os
import statistics
import subprocess
import sys
import time

from rounds import page

SETTINGS = ("300000", "1000", "0")
STEPS = 60


def measure() -> None:
    """Print the median milliseconds of a step."""
    import torch

    from espalier.experiment import apply, load
    from espalier.nn.gpt import make
    from espalier.train import setup

    plan = apply(load("shakespeare-char-cpu"), ["model.vocab_size=65"])
    torch.set_num_threads(2)
    rows, time_ = plan.data.batch_size, plan.model.block_size
    model = make(plan.model, 1).train()
    step = setup.stepper(model, plan.model, plan.train, rows, "cpu")
    batch = torch.randint(65, (rows, time_)), torch.randint(65, (rows, time_))
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        step(*batch, 1e-4)
        times.append(time.perf_counter() - start)
    print(1000 * statistics.median(times[10:]), 1000 * max(times[10:]))


def run(setting: str) -> list[float]:
    environment = os.environ | {"GOMP_SPINCOUNT": setting}
    command = [sys.executable, __file__, "step"]
    found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return [float(word) for word in found.stdout.split()]


def main() -> None:
    lines = ["| GOMP_SPINCOUNT | alone, median | beside another, median | slowest |"]
    lines.append("|---|---|---|---|")
    for setting in SETTINGS:
        alone = run(setting)
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            beside = run(setting)
        finally:
            other.kill()
        lines.append(f"| {setting} | {alone[0]:.1f} ms | {beside[0]:.1f} ms | {beside[1]:.0f} ms |")
    page("busy", "A training step beside another program", lines)


if __name__ == "__main__":
    measure() if sys.argv[1:] == ["step"] else main()
