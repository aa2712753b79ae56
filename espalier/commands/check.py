"""`espalier check RECIPE|RUN`: sizes, FLOPs and memory, without training or allocating anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from espalier import console
from espalier.commands import _hardware
from espalier.evaluate.tables import table
from espalier.starting import uncollected

if TYPE_CHECKING:
    from espalier.cost.count import Parameters
    from espalier.experiment import Experiment
    from espalier.nn.gpt import GPT


def check(
    recipe: str,
    /,
    *overrides: str,
    resolved: bool = False,
    memory: bool = False,
    hardware: Literal["fp32", "fp16", "int8"] | None = None,
    array: str = "16x16",
) -> dict[str, Any]:
    """Sizes, FLOPs and memory of a recipe or run, counted without allocating anything.

    Example: espalier check gpt2 model.n_layer=6
    Example: espalier check deepseek-ocr-stage2 --memory
    Example: espalier check gpt2 model.block.attention.score=consmax --hardware int8

    Parameters
    ----------
    recipe
        A shipped recipe, a recipe file, or a run directory.
    overrides
        path=value, such as model.block.norm=rms.
    resolved
        Print every path of the configuration instead.
    memory
        Print what training needs at several batches and windows instead, beside what others
        published of the same model.
    hardware
        Print what a circuit with numbers of this format does for a token instead: products,
        special functions, bytes, energy, and area and cycles of an array.
    array
        Multipliers of that array, ROWSxCOLUMNS.
    """
    with uncollected():
        from espalier import experiment
    from espalier.config import encode
    from espalier.tree import dump

    run_config = Path(recipe) / "config.yaml"
    source = str(run_config) if run_config.is_file() else recipe
    plan = experiment.with_vocabulary(experiment.load(source, overrides))
    if resolved:
        console.out(dump(encode(plan)).rstrip())
        return encode(plan)
    if memory:
        needs = [need(plan, *size) for size in sizes(recipe, plan)]
        for line in _needs(recipe, needs):
            console.out(line)
        return {"recipe": recipe, "memory_bytes": needs}
    if hardware is not None:
        circuit = _hardware.facts(plan, hardware, array)
        for line in _hardware.lines(recipe, circuit):
            console.out(line)
        return {"recipe": recipe, "hardware": circuit}
    found = {"recipe": recipe, **facts(plan)}
    for line in _lines(found):
        console.out(line)
    return found


def facts(plan: Experiment) -> dict[str, Any]:
    """What is counted of a plan; ConfigError or UserError for what training would refuse."""
    from espalier.config import digest
    from espalier.cost import count
    from espalier.nn.gpt import sketch
    from espalier.train import tuning

    training = _training(plan)  # refuses before anything is counted
    model = sketch(plan.model)
    tuning.freeze(model, plan.train.freeze)
    own = count.parameters(model)
    work = count.flops(model, plan.model.block_size)
    held = count.memory(model, plan.data.batch_size, plan.model.block_size, plan.pixels)
    return {
        "hash": digest(plan),
        "parameters": {
            "total": own.total,
            "unused": own.unused,
            "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "by_role": own.by_role,
            "by_part": own.by_part,
            "in_matrix_products": own.products,
        },
        "layout": described(model),
        "against": None if plan.evaluate.against is None else beside(own, plan.evaluate.against),
        "flops_per_token": asdict(work) | {"note": "causal attention counted as the full square"},
        "memory_bytes": {
            **asdict(held),
            "total": held.total,
            "note": f"fp32, batch of {plan.data.batch_size}",
        },
        "training": {**training, "flops": training["tokens"] * work.train},
    }


def sizes(recipe: str, plan: Experiment) -> list[tuple[int, int, str]]:
    """Batches and windows to look at; the last says what somebody published of them."""
    from espalier.cost import published

    told = [(one.batch, one.window, one.said) for one in published.rows(recipe)]
    batch, window = plan.data.batch_size, plan.model.block_size
    own = [(rows, window, "") for rows in sorted({1, max(1, batch // 2), batch, 2 * batch})]
    return told or own


def need(plan: Experiment, rows: int, window: int, said: str = "") -> dict[str, Any]:
    """Memory of a micro-batch of so many windows, one image each where the model reads any."""
    from espalier.config import refine
    from espalier.cost import count
    from espalier.nn.gpt import sketch
    from espalier.train import tuning

    model = sketch(refine(plan, {"model": {"block_size": window}}).model)
    tuning.freeze(model, plan.train.freeze)
    found = count.memory(model, rows, window, plan.pixels)
    return {"batch": rows, "window": window, **asdict(found), "total": found.total, "said": said}


def _needs(recipe: str, needs: list[dict[str, Any]]) -> Iterator[str]:
    first = needs[0]
    fixed = sum(first[key] for key in ("weights", "gradients", "optimizer"))
    yield f"{recipe}: {fixed / 2**30:.2f} GiB for weights, gradients and two moments, and"
    titles = ["batch", "window", "in fp32", "all", "published"]
    rows = [
        [
            str(one["batch"]),
            f"{one['window']:,}",
            f"{one['activations'] / 2**30:.2f} GiB",
            f"{one['total'] / 2**30:.2f} GiB",
            one["said"],
        ]
        for one in needs
    ]
    yield from table([titles, *rows])
    yield "in fp32: what a pass keeps for the backward, logits of all positions included; bf16"
    yield "keeps about half, answers alone need few logits, and little is kept with"
    yield "train.checkpoint_activations=true."


def _training(plan: Experiment) -> dict[str, int]:
    """How many tokens a step takes, and all of training."""
    from espalier.train import setup, stages

    micro = plan.data.batch_size * plan.model.block_size
    step = micro * plan.train.gradient_accumulation_steps
    updates = setup.horizon(plan.train, step)
    setup.rate(plan.train, updates)  # refuses a rate that training would refuse
    tokens = stages.micro_batches(plan.train, updates) * micro
    return {"tokens_per_step": step, "tokens": tokens}


def described(model: GPT) -> list[dict[str, Any]]:
    """What parts tell of themselves, in the order of the model."""
    from espalier.nn.slots import Part

    return [
        {"part": path} | facts
        for path, part in model.named_modules()
        if isinstance(part, Part) and (facts := part.describe())
    ]


def beside(sizes: Parameters, other: str) -> dict[str, Any]:
    """The counts of another recipe's model, and by how much these are more."""
    from espalier import experiment
    from espalier.cost import count
    from espalier.nn.gpt import sketch

    theirs = count.parameters(sketch(experiment.with_vocabulary(experiment.load(other)).model))
    return {
        "recipe": other,
        "parameters": theirs.total,
        "more": sizes.total - theirs.total,
        "live_more": sizes.live - theirs.live,
        "products_ratio": sizes.products / theirs.products,
    }


def _lines(found: dict[str, Any]) -> list[str]:
    sizes, work = found["parameters"], found["flops_per_token"]
    need, train = found["memory_bytes"], found["training"]
    gib = ", ".join(f"{k} {v / 2**30:.2f}" for k, v in need.items() if k not in {"total", "note"})
    return [
        f"{found['recipe']} (configuration {found['hash']})",
        f"parameters   {sizes['total']:,}: {_counts(sizes['by_part'])}",
        f"by role      {_counts(sizes['by_role'])}",
        f"in products  {sizes['in_matrix_products']:,}",
        *_unused(sizes),
        *_beside(found["against"]),
        *_layout(found["layout"]),
        f"FLOPs/token  {work['forward']:,} forward, {work['train']:,} in training",
        f"             at window {work['window']}, {work['note']}",
        f"memory       {need['total'] / 2**30:.2f} GiB in training: {gib} ({need['note']})",
        f"training     {train['flops']:.3g} FLOPs for {train['tokens']:,} tokens",
    ]


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name.removeprefix('trunk.')} {n:,}" for name, n in numbers.items())


def _unused(sizes: dict[str, Any]) -> list[str]:
    total, idle, trained = sizes["total"], sizes["unused"], sizes["trainable"]
    lines = [f"unused       {idle:,} are read by no pass: {total - idle:,} live"] * (idle > 0)
    return lines + [f"trainable    {trained:,}"] * (trained < total)


def _beside(other: dict[str, Any] | None) -> list[str]:
    if other is None:
        return []
    more, ratio = other["more"], other["products_ratio"]
    line = f"{other['recipe']:<12} {other['parameters']:,}: {more:+,} here "
    line += f"({more / other['parameters']:+.1%}), {ratio:.2f} times as many in products"
    return [line]


def _layout(parts: list[dict[str, Any]]) -> list[str]:
    """A line for each part, and the sums of what can be added up."""
    lines, sums = [], Counter[str]()
    for facts in parts:
        said = []
        for key, value in facts.items():
            if isinstance(value, int):
                sums[key] += value
                said.append(f"{value:,} {key}")
            elif key != "part":
                said.append(f"{key}: {value if isinstance(value, str) else ', '.join(value)}")
        lines.append(f"  {facts['part'].removeprefix('trunk.'):<18} {'; '.join(said)}")
    total = ", ".join(f"{number:,} {name}" for name, number in sums.items())
    return ["layout" + f"       {total}" * bool(total), *lines] if lines else []
