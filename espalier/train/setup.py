"""From a configuration to a trainer: precision, optimizer, objective, schedule, compilation."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from espalier import device as machine
from espalier.cost import count
from espalier.errors import MachineError, UserError
from espalier.native import attention, heap, rms
from espalier.nn.gpt import GPT, GPTConfig, sketch
from espalier.nn.slots import roles, splits
from espalier.train import precision
from espalier.train.objective import Objective
from espalier.train.settings import TrainConfig
from espalier.train.slots import Named, Span
from espalier.train.steps import Stepper

LARGE = 10_000_000  # parameters; below, activations fit anywhere


def horizon(config: TrainConfig, tokens_per_step: int) -> int:
    """Updates in all."""
    if config.target_tokens is None:
        return config.max_iters
    return -(-config.target_tokens // tokens_per_step)


def rate(config: TrainConfig, steps: int) -> Callable[[int], float]:
    """The learning rate by the number of updates made."""
    if config.min_lr > config.learning_rate:
        raise UserError(
            f"train.min_lr={config.min_lr} is above train.learning_rate={config.learning_rate}"
        )
    end = config.lr_decay_iters or steps
    span = Span(config.learning_rate, config.min_lr, config.warmup_iters, end)
    return partial(config.schedule.rate, span=span)


def check_device(wish: str) -> str:
    """The device to train on; UserError for one that is not here."""
    if wish == "auto":
        return machine.choose()
    try:
        torch.empty(0, device=wish)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"device '{wish}' cannot be used: {first}") from None
    return wish


def stepper(
    model: GPT, shape: GPTConfig, config: TrainConfig, micro_rows: int, device: str
) -> Stepper:
    """Everything that one update needs; the model already lies on the device."""
    if config.deterministic and device.startswith("cuda"):
        torch.use_deterministic_algorithms(True)
    if device == "cpu":
        attention.prepare()
        rms.prepare()
        heap.keep()
    role, split = roles(model), splits(model)
    named = [
        Named(name, p, role[name], split.get(name, ()))
        for name, p in model.named_parameters()
        if p.requires_grad
    ]
    chosen = precision.choose(config.dtype, device, sum(p.tensor.numel() for p in named))
    assert shape.vocab_size is not None
    objective = Objective(
        model,
        config.loss.build(),
        shape.vocab_size,
        checkpoint=_recompute(config, shape, micro_rows, device),
    )
    optimizer = config.optimizer.build(named, config.weight_decay)
    return Stepper(objective, optimizer, chosen, micro_rows, config.grad_clip, device)


def _recompute(config: TrainConfig, shape: GPTConfig, rows: int, device: str) -> bool:
    if config.checkpoint_activations != "auto":
        return config.checkpoint_activations
    model = sketch(shape)
    if sum(p.numel() for p in model.parameters()) < LARGE:
        return False
    need = count.memory(model, rows, shape.block_size)
    on_gpu = device.startswith("cuda")
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else machine.memory()[1]
    return need.activations > 0.8 * free - need.gradients - need.optimizer


def compile_step(stepper: Stepper, wish: bool | str, rows: int, block_size: int) -> str:
    """Compile as wished and try one micro-batch; what went wrong, when it goes on eagerly.

    Leaves no gradient and no trace in the random generators. MachineError for "require".
    """
    if wish is False or (wish == "auto" and not stepper.device.startswith("cuda")):
        return ""
    blank: Tensor = torch.zeros(rows, block_size, dtype=torch.long)
    cards = range(torch.cuda.device_count()) if stepper.device.startswith("cuda") else []
    with torch.random.fork_rng(devices=cards):
        try:
            stepper.objective.compile()
            stepper.backward(blank, blank)
        except Exception as error:
            why = f"torch.compile failed ({type(error).__name__}: {str(error).splitlines()[0]})"
            if wish == "require":
                raise MachineError(f"{why}; train.compile=auto goes on without") from error
            stepper.objective.eager()
            return f"{why}; going on without"
        finally:
            stepper.forget()
    return ""
