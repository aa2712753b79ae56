"""`espalier pretrained`: known models, what they need, and whether they are here."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from espalier import console
from espalier.errors import MachineError, UserError
from espalier.starting import uncollected
from espalier.units import count, duration, size

if TYPE_CHECKING:
    from espalier.cost.prices import Price
    from espalier.nn.gpt import GPTConfig
    from espalier.pretrained.known import Known

SHARE = 0.3  # of a device's peak that training reaches: a guess; train --timing-steps measures
WINDOW = 1024
PROMPT, WRITTEN = "The", 16


@dataclass(frozen=True)
class Tuning:
    """Fine-tuning on one device."""

    device: str
    fits: bool
    seconds: float
    dollars: float


@dataclass(frozen=True)
class Entry:
    """One line of the table."""

    name: str
    parameters: int
    bytes: int
    """on disk: counted where cached, else of the weights as published"""
    memory: int
    """bytes to fine-tune all of it with AdamW in fp32, one window at a time"""
    cached: str | None
    tuning: tuple[Tuning, ...]


def pretrained(
    action: Literal["list", "verify"] = "list", /, *, tokens: int = 1_000_000
) -> dict[str, Any]:
    """List published models: size, memory to fine-tune, time and money on named devices.

    Times are what counted arithmetic takes at 30 % of a device's peak, an estimate;
    espalier train ... --timing-steps 50 measures. Example: espalier pretrained verify

    Parameters
    ----------
    action
        list; or verify, which loads each cached model and lets it write.
    tokens
        Of fine-tuning, that time and money are told for.
    """
    if action == "verify":
        return verify()
    if tokens < 1:
        raise UserError(f"--tokens must be at least 1, got {tokens}")
    with uncollected():
        from espalier.cost import prices
        from espalier.pretrained import known
    devices = prices.every()
    found = [entry(model, devices, tokens) for model in known.table().values()]
    for line in lines(found, devices, tokens):
        console.out(line)
    return {"tokens": tokens, "share_of_peak": SHARE, "models": [asdict(one) for one in found]}


def entry(model: Known, devices: tuple[Price, ...], tokens: int) -> Entry:
    """A model's line, counted from the model itself."""
    from espalier.cost import count as cost
    from espalier.nn.gpt import sketch
    from espalier.pretrained import hub

    parameters = cost.parameters(sketch(model.config)).total
    need, work = needs(model.config, min(WINDOW, model.config.block_size))
    place = hub.cached(hub.Id(model.name))
    return Entry(
        name=model.name,
        parameters=parameters,
        bytes=on_disk(place) if place else parameters * model.weight_bytes,
        memory=need,
        cached=None if place is None else str(place),
        tuning=tuple(tuning(device, need, work * tokens) for device in devices),
    )


def needs(config: GPTConfig, window: int) -> tuple[int, int]:
    """Bytes to train on one window, and operations for a token of it.

    Counted on one and two layers: each further one, all being equal, adds what the second does.
    """
    from espalier.config import refine
    from espalier.cost import count as cost
    from espalier.nn.gpt import sketch

    shapes = [sketch(refine(config, {"n_layer": depth})) for depth in (1, 2)]
    memory = [cost.memory(shape, 1, window).total for shape in shapes]
    work = [cost.flops(shape, window).train for shape in shapes]
    one, two = zip(memory, work, strict=True)
    bytes_, flops = ((config.n_layer - 1) * (b - a) + a for a, b in zip(one, two, strict=True))
    return bytes_, flops


def tuning(device: Price, need: int, work: int) -> Tuning:
    seconds = work / (SHARE * device.tflops * 1e12)
    fits = need <= device.memory * 1e9
    return Tuning(device.label, fits, seconds, seconds / 3600 * device.dollars)


def on_disk(snapshot: Path) -> int:
    return sum(file.stat().st_size for file in snapshot.rglob("*") if file.is_file())


def lines(found: list[Entry], devices: tuple[Price, ...], tokens: int) -> list[str]:
    wide = max(len(one.name) for one in found)
    said = [
        f"{'model':{wide}}  params    disk  memory  cached  fine-tuning on {count(tokens)} tokens"
    ]
    for one in found:
        here = "yes" if one.cached else "no"
        able = [each for each in one.tuning if each.fits]
        text = "; ".join(
            f"{each.device} {duration(each.seconds)} ${each.dollars:.2f}" for each in able
        )
        said.append(
            f"{one.name:{wide}} {count(one.parameters):>7} {size(one.bytes):>7} "
            f"{size(one.memory):>7}  {here:6}  {text or 'no single device here has the memory'}"
        )
    dates = ", ".join(f"{device.label} {device.as_of}" for device in devices)
    memory = f"weights, gradients, two moments and the activations of {WINDOW} tokens, fp32"
    return [
        *said,
        "",
        f"memory: {memory}, as far as counted; LoRA and freezing need less",
        f"time: an estimate at {SHARE:.0%} of each device's 16-bit peak (of the CPU's fp32)",
        f"prices as of: {dates}; espalier/cost/prices.yaml has the sources",
        "get one: espalier import gpt2",
    ]


def verify() -> dict[str, Any]:
    """Load each cached model and let it write a few tokens; MachineError where one fails."""
    with uncollected():
        from espalier import api
        from espalier.pretrained import hub, known

    here = [name for name in known.names() if hub.cached(hub.Id(name))]
    if not here:
        raise UserError(f"no known model is cached in {hub.cache()}; get one: espalier import gpt2")
    found = []
    for name in here:
        start = time.perf_counter()
        try:
            text = api.load(name).generate(PROMPT, WRITTEN, temperature=0.0)
            problem = ""
        except (UserError, MachineError) as error:
            text, problem = "", str(error)
        seconds = time.perf_counter() - start
        console.out(f"{name}: {problem or repr(text)} ({duration(seconds)})")
        found.append({"model": name, "text": text, "problem": problem, "seconds": seconds})
    wrong = [str(one["model"]) for one in found if one["problem"]]
    if wrong:
        raise MachineError(f"{len(wrong)} of {len(found)} cannot be used: {', '.join(wrong)}")
    return {"models": found}
