"""What trials will take, counted from their models before any of them runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from espalier.config import encode
from espalier.cost import count
from espalier.errors import ConfigError, UserError
from espalier.experiment import Experiment
from espalier.nn.gpt import sketch
from espalier.study.plan import Trial
from espalier.train import setup, stages

PROGRAM = 500_000_000  # bytes of a process before it has a model: Python, torch, its threads
MOMENTS = 3  # a checkpoint holds the weights, and two moments of each


@dataclass(frozen=True)
class Size:
    """Of one trial."""

    parameters: int
    flops: int
    """of its training, evaluations not counted"""
    memory: int
    """bytes, in fp32, the program included"""
    disk: int
    """bytes of the checkpoints that stay"""


Shapes = dict[str, tuple[int, int, int]]
"""what was counted of each different model"""


def sizes(trials: Sequence[Trial], known: Shapes | None = None) -> dict[str, Size]:
    """Key -> size. Builds each different model on the meta device, so that a misfit shows here.

    `known` takes up what is counted, for the next call.
    """
    known = {} if known is None else known
    return {trial.key: _size(trial, known) for trial in trials}


def _size(trial: Trial, known: Shapes) -> Size:
    plan = trial.experiment
    shape = json.dumps([encode(plan.model), plan.data.batch_size], sort_keys=True)
    try:
        if shape not in known:
            known[shape] = _counted(plan)
        tokens = _tokens(plan)
    except UserError as error:
        said = ", ".join(f"{path}={value}" for path, value in trial.settings.items())
        raise ConfigError(f"{said or trial.key}: {error}") from None
    parameters, per_token, memory = known[shape]
    kept = plan.train.keep + 1
    disk = 4 * parameters * MOMENTS * kept
    return Size(parameters, tokens * per_token, PROGRAM + memory, disk)


def _counted(plan: Experiment) -> tuple[int, int, int]:
    model, window = sketch(plan.model), plan.model.block_size
    memory = count.memory(model, plan.data.batch_size, window, plan.pixels).total
    return count.parameters(model).total, count.flops(model, window).train, memory


def _tokens(plan: Experiment) -> int:
    """Of a whole training; refuses what training would refuse."""
    micro = plan.data.batch_size * plan.model.block_size
    stages.check(plan.train, plan.model.block_size)
    updates = setup.horizon(plan.train, micro * plan.train.gradient_accumulation_steps)
    setup.rate(plan.train, updates)
    return stages.micro_batches(plan.train, updates) * micro
