"""`espalier check RECIPE|RUN`: sizes, FLOPs and memory, without training or allocating anything."""

from pathlib import Path
from typing import Any

from espalier import console


def check(recipe: str, /, *overrides: str, resolved: bool = False) -> dict[str, Any]:
    """Sizes, FLOPs and memory of a recipe or run, counted without allocating anything.

    Example: espalier check gpt2 model.n_layer=6

    Parameters
    ----------
    recipe
        A shipped recipe, a recipe file, or a run directory.
    overrides
        path=value, such as model.block.norm=rms.
    resolved
        Print every path of the configuration instead.
    """
    from espalier import experiment
    from espalier.config import digest, encode
    from espalier.cost import count
    from espalier.nn.gpt import sketch
    from espalier.tree import dump

    run_config = Path(recipe) / "config.yaml"
    source = str(run_config) if run_config.is_file() else recipe
    plan = experiment.with_vocabulary(experiment.load(source, overrides))
    if resolved:
        console.out(dump(encode(plan)).rstrip())
        return encode(plan)
    model = sketch(plan.model)
    sizes = count.parameters(model)
    work = count.flops(model, plan.model.block_size)
    need = count.memory(model, plan.data.batch_size, plan.model.block_size)
    step = plan.data.batch_size * plan.train.gradient_accumulation_steps * plan.model.block_size
    tokens = plan.train.target_tokens or step * plan.train.max_iters
    found: dict[str, Any] = {
        "recipe": recipe,
        "hash": digest(plan),
        "parameters": {
            "total": sizes.total,
            "by_role": sizes.by_role,
            "by_part": sizes.by_part,
            "in_matrix_products": sizes.products,
        },
        "flops_per_token": {
            "forward": work.forward,
            "train": work.train,
            "window": work.window,
            "note": "causal attention counted as the full square",
        },
        "memory_bytes": {
            "weights": need.weights,
            "gradients": need.gradients,
            "optimizer": need.optimizer,
            "activations": need.activations,
            "total": need.total,
            "note": f"fp32, batch of {plan.data.batch_size}",
        },
        "training": {
            "tokens_per_step": step,
            "tokens": int(tokens),
            "flops": int(tokens) * work.train,
        },
    }
    for line in _lines(found):
        console.out(line)
    return found


def _lines(found: dict[str, Any]) -> list[str]:
    sizes, work = found["parameters"], found["flops_per_token"]
    need, train = found["memory_bytes"], found["training"]
    gib = ", ".join(f"{k} {v / 2**30:.2f}" for k, v in need.items() if k not in {"total", "note"})
    return [
        f"{found['recipe']} (configuration {found['hash']})",
        f"parameters   {sizes['total']:,}: {_counts(sizes['by_part'])}",
        f"by role      {_counts(sizes['by_role'])}",
        f"in products  {sizes['in_matrix_products']:,}",
        f"FLOPs/token  {work['forward']:,} forward, {work['train']:,} in training",
        f"             at window {work['window']}, {work['note']}",
        f"memory       {need['total'] / 2**30:.2f} GiB in training: {gib} ({need['note']})",
        f"training     {train['flops']:.3g} FLOPs for {train['tokens']:,} tokens",
    ]


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name.removeprefix('trunk.')} {n:,}" for name, n in numbers.items())
