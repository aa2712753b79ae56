"""Every learning-rate schedule drawn side by side, over a run whose loss stops falling midway.

python examples/schedules.py [--steps 100]
"""

import argparse
from collections.abc import Sequence

from espalier.config import names, resolve
from espalier.train.schedule.plateau import PlateauConfig
from espalier.train.slots import ScheduleConfig, Span

BARS = " ▁▂▃▄▅▆▇█"


def rates(name: str, steps: int) -> list[float]:
    """Of each step: a tenth of the run warms up, evaluations come twice as often."""
    every = max(1, steps // 20)
    history = [(step, max(2.0, 4.0 - 4 * step / steps)) for step in range(0, steps, every)]
    span = Span(1.0, 0.05, steps // 10, steps, history)
    patient = PlateauConfig(patience=2, factor=0.4)
    schedule = patient if name == "plateau" else resolve(ScheduleConfig, name)()
    return [schedule.rate(step, span) for step in range(steps)]


def drawn(heights: Sequence[float], width: int = 50) -> str:
    """A row of bars, one for each of `width` parts."""
    chosen = [heights[i * len(heights) // width] for i in range(width)]
    return "".join(BARS[round(height * (len(BARS) - 1))] for height in chosen)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args(arguments).steps
    for name in names(ScheduleConfig):
        print(f"{name:<12}{drawn(rates(name, steps))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
