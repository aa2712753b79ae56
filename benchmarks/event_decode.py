"""What silence is worth in decoding: WiggleGPT with hard gates at batch 1 on a CPU.

    python benchmarks/event_decode.py [--recipe wigglegpt] [--context 256]

Random weights of the recipe's size; each layer's threshold is set so that a wanted share of
features is silent. Two sides take turns, in one thread, from the same full cache: `skip` is what
`sample` does, which reads no weight that a silent feature meets; `dense` is the same packed model
with all weights read. Beside them stand torch.compile of the model, and the published way, without
a cache: every token takes a full pass, with the head at every position (the original's own model
applies its head to the last one alone). Writes a table to benchmarks/results/.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from rounds import page

from espalier.config import refine
from espalier.engine.weights import DTYPES, Weights, empty_states, pack
from espalier.experiment import load
from espalier.native import gathered, matvec
from espalier.nn.ffn.sparse_event import Event
from espalier.nn.gpt import GPT, make
from espalier.nn.state import Frame, Pass, at

SHARES = (0.0, 0.25, 0.5, 0.75, 0.86, 0.95)
RATIOS = ("dense / skip", "compiled / skip", "no cache / skip")
NOISE = 0.03  # of a ratio of two medians on this machine
Step = Callable[[], object]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default="wigglegpt")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    shape = refine(load(args.recipe).model, {"block": {"ffn": {"gate": "hard"}}})
    model = make(shape, seed=0).eval()
    with torch.no_grad():
        silence(model, SHARES[-1], args.context)
        first = torch.compile(one_token), filled(model, args.context)
        others = {
            "torch.compile, fp32, cached": lambda: first[0](model, first[1], args.context),
            "no cache, fp32, all logits": lambda: model(prompt(args.context)),
        }
        against = dict(zip(others, median(list(others.values()), 3), strict=True))
        lines = [f"- {name}: {1000 * seconds:.2f} ms a token" for name, seconds in against.items()]
        for weights in ("float32", "bf16"):
            found = [measure(model, weights, args.context, share, args.rounds) for share in SHARES]
            lines += ["", *table(weights, found, list(against.values())), "", verdict(found)]
            lines += ["", *alone(DTYPES[weights])]
    title = f"Silence in decoding, {args.recipe} with hard gates, batch 1, {args.context} tokens"
    page("event_decode", title, lines)
    return 0


def measure(
    model: GPT, weights: Weights, context: int, wanted: float, rounds: int
) -> tuple[float, float, float]:
    """The silent share there was, and seconds a token: skipping, and reading all."""
    silence(model, wanted, context)
    now = at(prompt(context), listening=True)
    model.trunk(prompt(context), now)
    assert now.told is not None
    share = statistics.mean(float(value) for value in now.told["silent"])
    packed = pack(model, weights), reading_all(model, weights)
    sides = [(side, filled(side, context)) for side in packed]
    steps = [partial(one_token, side, states, context) for side, states in sides]
    skipping, whole = median(steps, rounds)
    return share, skipping, whole


def alone(dtype: torch.dtype, width: int = 1536, count: int = 12) -> list[str]:
    """The one map that skips, by itself: several of them, so that none stays in the cache."""
    matrices = [torch.randn(width, width) for _ in range(count)]
    whole = [matvec.Linear(matvec.pack(m, None, dtype)) for m in matrices]
    skip = [gathered.Product(m.t().contiguous().to(dtype), None) for m in matrices]
    cells = []
    for share in SHARES:
        x = torch.randn(1, width) * (torch.rand(1, width) >= share)
        both = [
            partial(lambda maps, x: [one(x) for one in maps], side, x) for side in (whole, skip)
        ]
        dense, sparse = median(both, 9)
        cells.append(f"{dense / sparse:.2f} at {100 * share:.0f} %")
    return [f"The map of {width} x {width} alone, dense / skip: {', '.join(cells)} silent."]


def one_token(model: GPT, states: Frame, context: int) -> torch.Tensor:
    positions = torch.full((1, 1), context - 1)
    token = torch.full((1, 1), 7)
    return model(token, Pass(positions, states, context, fresh=False))


def filled(model: GPT, context: int) -> Frame:
    states = empty_states(model, 1, context, torch.device("cpu"))
    positions = torch.arange(context - 1)[None]
    model.trunk(prompt(context - 1), Pass(positions, states, context))
    return states


def prompt(length: int) -> torch.Tensor:
    return torch.randint(1000, (1, length), generator=torch.Generator().manual_seed(1))


def silence(model: GPT, wanted: float, context: int) -> None:
    """Move each layer's threshold so that the wanted share lies below it."""
    seen: list[torch.Tensor] = []
    events = [part for part in model.modules() if isinstance(part, Event)]
    for event in events:
        seen.clear()
        hook = event.gate.register_forward_hook(lambda _m, _i, out: seen.append(out))
        model.trunk(prompt(context), at(prompt(context)))
        hook.remove()
        level = torch.sigmoid(seen[0]).flatten().double().quantile(wanted)
        event.level.start = -1.0 if wanted == 0 else float(level)


def reading_all(model: GPT, weights: Weights) -> GPT:
    """Packed, but with dense transforms: every weight is read."""
    kept = Event.settled
    Event.settled = lambda self: self  # type: ignore[method-assign]
    try:
        return pack(model, weights)
    finally:
        Event.settled = kept  # type: ignore[method-assign]


def median(steps: Sequence[Step], rounds: int) -> list[float]:
    """Seconds a call, each side in turn."""
    times: list[list[float]] = [[] for _ in steps]
    for step in steps:
        step()
    for _ in range(rounds):
        for step, found in zip(steps, times, strict=True):
            step()
            start = time.perf_counter()
            for _ in range(3):
                step()
            found.append((time.perf_counter() - start) / 3)
    return [statistics.median(found) for found in times]


def table(weights: str, found: list[tuple[float, float, float]], others: list[float]) -> list[str]:
    head = ("silent", f"skip, {weights}", f"dense, {weights}", *RATIOS)
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for share, skip, whole in found:
        compiled, uncached = others
        lines.append(
            f"| {100 * share:.1f} % | {1000 * skip:.2f} ms | {1000 * whole:.2f} ms | "
            f"{whole / skip:.2f} | {compiled / skip:.2f} | {uncached / skip:.1f} |"
        )
    return lines


def verdict(found: list[tuple[float, float, float]]) -> str:
    """From which share on skipping gains more than noise, at each share tried.

    With nothing silent there is nothing to gain: what differs there is noise too.
    """
    gains = [whole / skip - 1 for _, skip, whole in found]
    noise = max(NOISE, abs(gains[0]))
    good = [i for i in range(1, len(gains)) if min(gains[i:]) > noise]
    if not good:
        return f"No gain here: at no share does it stay above {100 * noise:.0f} %."
    return f"It pays from {100 * found[good[0]][0]:.0f} % silent on, of the shares tried."


if __name__ == "__main__":
    raise SystemExit(main())
