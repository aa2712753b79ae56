"""How fast: the machine itself, training, generation."""

import gc
import json
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.gpu.measure import Row, attempt, forget_peak, peak_memory, seconds, wait
from benchmarks.gpu.scale import Place, Scale
from espalier import device as machine
from espalier import experiment
from espalier.cost import count
from espalier.engine.generate import Generation, Options
from espalier.engine.sampling import Sampling
from espalier.engine.weights import pack
from espalier.experiment import Experiment
from espalier.nn.gpt import GPT, make, sketch
from espalier.train import setup
from espalier.train.steps import Stepper

MACHINE = "machine.json"


def limits(scale: Scale, place: Place) -> Iterator[Row]:
    """What the device really reaches; later sections divide by it."""
    peak = machine.known_peak(machine.name(scale.device), "bf16")
    found = {
        "device": machine.name(scale.device),
        "matmul_tflops": machine.matmul_flops(scale.device, "bf16", 2.0) / 1e12,
        "data_sheet_tflops": peak.flops / 1e12 if peak else None,
        "copy_gb_s": machine.bandwidth(scale.device, 1.0) / 1e9,
    }
    (place.out / MACHINE).write_text(json.dumps(found), encoding="utf-8")
    yield {"name": "limits", "ok": True, **found, "torch": torch.__version__}


def training(recipe: str) -> Callable[[Scale, Place], Iterator[Row]]:
    """Tokens per second of the house's own step at several batch sizes."""

    def section(scale: Scale, place: Place) -> Iterator[Row]:
        if recipe not in experiment.shipped():
            yield {"name": recipe, "ok": None, "why": "no such recipe yet"}
            return
        rows = [attempt(name, work) for name, work in _sweep(recipe, scale, place)]
        fast = [row for row in rows if row["ok"]]
        if fast:
            max(fast, key=lambda row: row["tokens_per_s"])["best"] = True
        yield from rows

    return section


def warming(recipe: str) -> Callable[[Scale, Place], Iterator[Row]]:
    """Compile what `training` will want, into the cache on disk, beside other work."""

    def section(scale: Scale, place: Place) -> Iterator[Row]:
        if recipe not in experiment.shipped():
            return
        if scale.device.startswith("cuda"):
            torch.cuda.set_per_process_memory_fraction(0.4)  # others are at work, too
        for rows in scale.sweep[recipe]:
            yield attempt(
                f"{recipe}, {rows} rows", partial(_warm, _plan(recipe, rows, scale), scale)
            )

    return section


def _plan(recipe: str, rows: int, scale: Scale, *more: str) -> Experiment:
    own = (f"data.batch_size={rows}", "train.gradient_accumulation_steps=1", "train.dtype=bfloat16")
    plan = experiment.load(recipe, [*scale.shrink, *own, f"train.compile={scale.compile}", *more])
    return plan if plan.model.vocab_size else experiment.apply(plan, ["model.vocab_size=50304"])


def _sweep(recipe: str, scale: Scale, place: Place) -> Iterator[tuple[str, Callable[[], Row]]]:
    for rows in scale.sweep[recipe]:
        yield f"{recipe}, {rows} rows", partial(_trained, _plan(recipe, rows, scale), scale, place)
    rows = scale.sweep[recipe][0]
    if _plan(recipe, rows, scale).model.vocab_size == 50257:  # odd: products of it align badly
        padded = _plan(recipe, rows, scale, "model.vocab_size=50304")
        yield f"{recipe}, {rows} rows, 50,304 tokens", partial(_trained, padded, scale, place)


def _stepper(plan: Experiment, scale: Scale) -> tuple[Stepper, float]:
    """Ready for steps, and the seconds that compiling took."""
    torch._dynamo.reset()  # another batch size is another graph, not a dynamic one
    rows = plan.data.batch_size
    model = make(plan.model, plan.seed, scale.device).train()
    step = setup.stepper(model, plan.model, plan.train, rows, scale.device)
    start = time.perf_counter()
    said = setup.compile_step(step, plan.train.compile, (rows, plan.model.block_size), 10**9)
    assert not said, said
    wait(scale.device)
    return step, time.perf_counter() - start


def _warm(plan: Experiment, scale: Scale) -> Row:
    _, warm_up = _stepper(plan, scale)
    gc.collect()
    forget_peak(scale.device)
    return {"ok": True, "warm_up_s": warm_up}


def _trained(plan: Experiment, scale: Scale, place: Place) -> Row:
    forget_peak(scale.device)
    step, warm_up = _stepper(plan, scale)
    size = (plan.data.batch_size, plan.model.block_size)
    assert plan.model.vocab_size is not None
    batch = [torch.randint(plan.model.vocab_size, size) for _ in range(2)]
    for _ in range(3):
        step(*batch, 1e-4)
    third = max(1, scale.steps // 3)
    took = seconds(partial(step, *batch, 1e-4), scale.device, [third] * 3)
    speed = size[0] * size[1] / took
    row = {
        "tokens_per_s": speed,
        "ms": 1000 * took,
        "warm_up_s": warm_up,
        **_mfu(plan, speed, place),
    }
    row |= {"peak_gb": peak_memory(scale.device) / 1e9, "checkpoint": step.objective.checkpoint}
    del step
    gc.collect()
    return {"ok": True, **row}


def _mfu(plan: Experiment, speed: float, place: Place) -> Row:
    """Shares of the measured matrix product and of the data sheet, by 6 N + 12 L T d."""
    tflops = speed * count.flops(sketch(plan.model), plan.model.block_size).train / 1e12
    found = _limits(place)
    shares = {"mfu": found.get("matmul_tflops"), "mfu_data_sheet": found.get("data_sheet_tflops")}
    return {"tflops": tflops, **{key: tflops / of if of else None for key, of in shares.items()}}


def _limits(place: Place) -> Row:
    file = place.out / MACHINE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def generation(scale: Scale, place: Place) -> Iterator[Row]:
    """GPT-2 124M with random weights in bf16: new tokens per second, all rows together."""
    plan = experiment.load("gpt2", scale.shrink)
    model = pack(make(plan.model, plan.seed, scale.device), "bf16")
    read = machine.bandwidth(scale.device)
    ways = (False, True) if scale.device.startswith("cuda") else (False,)
    for rows in scale.prompts:
        for record in ways:
            name = f"{rows} rows{', recorded' if record else ''}"
            yield attempt(name, partial(_generated, model, plan, rows, (scale, record, read)))


def _generated(model: GPT, plan: Experiment, rows: int, how: tuple[Scale, bool, float]) -> Row:
    scale, record, read = how
    forget_peak(scale.device)
    assert plan.model.vocab_size is not None
    prompts = torch.randint(plan.model.vocab_size, (rows, 8)).tolist()
    options = Options(
        scale.new_tokens, sampling=Sampling(temperature=0.8, top_k=200), record=record
    )

    def generate() -> Generation:
        made = Generation(model, plan.model.block_size, prompts, options)
        for _ in made:
            pass
        return made

    graphs = int(generate()._recorded is not None)
    took = seconds(generate, scale.device, [1, 1, 1])
    weights = 2 * count.parameters(sketch(plan.model)).products
    return {
        "ok": graphs == int(record),
        "tokens_per_s": rows * scale.new_tokens / took,
        "ms_per_step": 1000 * took / scale.new_tokens,
        "roofline": scale.new_tokens * weights / read / took,
        "peak_gb": peak_memory(scale.device) / 1e9,
    }
