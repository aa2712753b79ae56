"""From a configuration to a trainer: precision, optimizer, objective, schedule, compilation."""

import os
import re
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from espalier import device as machine
from espalier.cost import count
from espalier.errors import MachineError, UserError
from espalier.native import heap, training
from espalier.nn.gpt import GPT, GPTConfig, sketch
from espalier.nn.slots import roles, splits
from espalier.train import precision, stages, tuning
from espalier.train.noise import NoiseScale
from espalier.train.objective import Guided, Objective
from espalier.train.parallel.spread import spread
from espalier.train.settings import TrainConfig
from espalier.train.slots import Named, Optimizer, Span
from espalier.train.steps import Stepper

LARGE = 10_000_000  # parameters; below, activations fit anywhere

# Compiling takes about WARM_UP seconds and saves GAIN of a step: nanoGPT's README tells of 250 ms
# that became 135 ms, other models save less. benchmarks/gpu.sh measures both.
WARM_UP, GAIN = 40.0, 0.3


def horizon(config: TrainConfig, tokens_per_step: int) -> int:
    """Updates in all; an update has `tokens_per_step` until train.batch_schedule says otherwise."""
    if config.target_tokens is None:
        return config.max_iters
    if not config.batch_schedule:
        return -(-config.target_tokens // tokens_per_step)
    micro = tokens_per_step // config.gradient_accumulation_steps
    return stages.updates(config, -(-config.target_tokens // micro))


def rate(
    config: TrainConfig, steps: int, history: Sequence[tuple[int, float]] = ()
) -> Callable[[int], float]:
    """The learning rate by the number of updates made.

    `history`: (step, validation loss) of each evaluation, which the trainer may go on filling.
    """
    if config.min_lr > config.learning_rate:
        raise UserError(
            f"train.min_lr={config.min_lr} is above train.learning_rate={config.learning_rate}"
        )
    end = config.lr_decay_iters or steps
    span = Span(config.learning_rate, config.min_lr, config.warmup_iters, end, history)
    config.schedule.rate(0, span)  # refuses what cannot be at all
    return partial(config.schedule.rate, span=span)


def check_device(wish: str) -> str:
    """The device to train on; UserError for one that is not here."""
    if wish == "auto":
        return machine.choose()
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", wish):
        raise UserError(f"no device '{wish}': take cpu, cuda, cuda:N (a number) or mps")
    try:
        torch.empty(0, device=wish)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"device '{wish}' cannot be used: {first}") from None
    return wish


def stepper(
    model: GPT,
    shape: GPTConfig,
    config: TrainConfig,
    micro_rows: int,
    device: str,
    teacher: GPT | None = None,
) -> Stepper:
    """Everything that one update needs; the models already lie on the device.

    `teacher`: whom the loss names, if it names one; without it the loss does without.
    """
    if config.deterministic and device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS refuses
        torch.use_deterministic_algorithms(True)
    if device == "cpu":
        training.prepare()
        heap.keep()
    role, split = roles(model), splits(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    laid = spread(model, device, config.parallel, shape.block_size)
    named = [
        Named(name, p, role[name], split.get(name, ()))
        for name, p in laid.parameters.items()
        if p.requires_grad
    ]
    chosen = precision.choose(config.dtype, device, trained)
    assert shape.vocab_size is not None
    recompute = _recompute(config, shape, micro_rows, device)
    guide = config.loss.guide() if teacher is not None else None
    if teacher is None or guide is None:
        loss = config.loss.build()
        objective = Objective(model, loss, shape.vocab_size, checkpoint=recompute)
    else:
        objective = Guided(model, teacher, guide[1], shape.vocab_size, checkpoint=recompute)
    tokens = micro_rows * shape.block_size * config.gradient_accumulation_steps
    if laid.in_pieces:
        refuse_in_pieces(config)
    optimizer = laid.optimizer(named, partial(_optimizer, config, horizon(config, tokens)))
    tuning.confirm(model, optimizer)
    made = Stepper(objective, optimizer, chosen, micro_rows, config.grad_clip, laid)
    if config.noise_scale:
        least = 2 * laid.ranks.count
        if micro_rows * config.gradient_accumulation_steps < least:
            raise UserError(
                f"train.noise_scale compares parts of an update: data.batch_size={least}"
            )
        made.noise = NoiseScale(int(config.noise_scale), device)
    return made


def _optimizer(config: TrainConfig, steps: int, named: list[Named]) -> Optimizer:
    return config.optimizer.within(steps).build(named, config.weight_decay)


def refuse_in_pieces(config: TrainConfig) -> None:
    """UserError for what needs whole tensors, where each rank has some of their rows."""
    if "bridge" in {
        config.optimizer.name,
        getattr(config.optimizer, "inner", config.optimizer).name,
    }:
        raise UserError(
            "train.optimizer=bridge may need whole matrices, and does not say so; "
            "train.parallel=fsdp cuts them: take train.parallel=ddp, or another optimizer"
        )
    if config.lora is not None:
        raise UserError(
            "train.lora trains few parameters, which train.parallel=fsdp would cut: take "
            "train.parallel=ddp"
        )
    if config.ema is not None:
        raise UserError("train.ema keeps whole weights: take train.parallel=ddp, not fsdp")
    if config.compile not in {False, "auto"}:
        raise UserError(
            "train.compile does not go with train.parallel=fsdp, which puts layers together "
            "between them: take train.compile=auto or train.parallel=ddp"
        )


def _recompute(config: TrainConfig, shape: GPTConfig, rows: int, device: str) -> bool:
    if config.checkpoint_activations != "auto":
        return config.checkpoint_activations
    return too_large(shape, rows, device)


def too_large(shape: GPTConfig, rows: int, device: str) -> bool:
    """Would the activations of a micro-batch of `rows` not fit into the memory that is free?"""
    model = sketch(shape)
    if sum(p.numel() for p in model.parameters()) < LARGE:
        return False
    need = count.memory(model, rows, shape.block_size)
    on_gpu = device.startswith("cuda")
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else machine.memory()[1]
    return need.activations > 0.8 * free - need.gradients - need.optimizer


def eager_seconds(stepper: Stepper, blank: Tensor) -> float:
    """What a micro-batch takes as it is: forward and backward, the faster of two after a first."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        float(stepper.rehearse(blank))  # reading the loss does not wait for the gradients
        if stepper.device.startswith("cuda"):
            torch.cuda.synchronize(stepper.device)
        times.append(time.perf_counter() - start)
        stepper.forget()
    return min(times[1:])


def compile_step(stepper: Stepper, wish: bool | str, shape: tuple[int, int], ahead: int) -> str:
    """Compile as wished and try one micro-batch; what went wrong, when it goes on eagerly.

    `shape` is the micro-batch's (rows, time), `ahead` how many of them are still to come. "auto"
    compiles on a GPU, where they take long enough. Leaves no gradient and no trace in the random
    generators. MachineError for "require".
    """
    on_gpu, laid = stepper.device.startswith("cuda"), stepper.spread
    if wish is False or (wish == "auto" and (not on_gpu or laid.in_pieces)):
        return ""
    blank: Tensor = torch.zeros(shape, dtype=torch.long)
    cards = range(torch.cuda.device_count()) if on_gpu else []
    with torch.random.fork_rng(devices=cards):
        if wish == "auto":
            (seconds,) = laid.ranks.most(eager_seconds(stepper, blank))
            if ahead * seconds * GAIN < WARM_UP:
                return ""
        try:
            stepper.objective.compile()
            stepper.rehearse(blank)
        except Exception as error:
            why = f"torch.compile failed ({type(error).__name__}: {str(error).splitlines()[0]})"
            if wish == "require":
                raise MachineError(f"{why}; train.compile=auto goes on without") from error
            stepper.objective.eager()
            return f"{why}; going on without"
        finally:
            stepper.forget()
    return ""
