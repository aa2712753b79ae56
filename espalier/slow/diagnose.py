"""From a run directory to a diagnosis."""

from pathlib import Path

import torch

from espalier import device as machine
from espalier.errors import UserError
from espalier.experiment import apply
from espalier.lock import owner_of
from espalier.nn.gpt import sketch
from espalier.run import Run
from espalier.slow import published, records, trial
from espalier.slow.causes import Cause, Diagnosis
from espalier.slow.records import Records

SLOWER = 1.3  # times what a few steps take here


def diagnose(path: str | Path) -> Diagnosis:
    """Read the run and measure a few steps like its own, where it ran; writes nothing.

    Causes are ordered by what they cost, those without a measured gain last. Raises UserError where
    there is no run.
    """
    run = Run.open(path)
    told = Records.of(run)
    if told.plan.model.vocab_size is None:
        raise UserError(f"{path}: its configuration has no model.vocab_size; was it ever trained?")
    facts, causes = list(records.speed(told)), list(records.causes(told))
    facts += _published(told)
    shares: dict[str, float] = {}
    why = _elsewhere(told, run)
    if why:
        facts.append(f"only its records were read: {why}")
    else:
        facts, causes, shares = _measured(told, facts, causes)
    causes.sort(key=lambda cause: -(cause.gain or 1.0))
    return Diagnosis(str(run.path), tuple(facts), shares, tuple(causes))


def _elsewhere(told: Records, run: Run) -> str | None:
    """Why measuring here would say nothing of the run."""
    owner = owner_of(run.path / "lock")
    if owner:
        return f"process {owner['pid']} trains it right now and would be disturbed"
    if told.device.startswith("cuda") and not torch.cuda.is_available():
        return "it ran on a GPU, and there is none here"
    there = told.place.get("device_name") or told.place.get("cpu")
    if there and there != machine.name(told.device):
        return f"it ran on another machine ({there})"
    return None


def _measured(
    told: Records, facts: list[str], causes: list[Cause]
) -> tuple[list[str], list[Cause], dict[str, float]]:
    """The same with what a few steps show; a measured cause takes the place of a told one."""
    plan = apply(told.plan, ["train.deterministic=false"])
    threads = int(told.place.get("threads") or torch.get_num_threads())
    with trial.undisturbed():
        base = trial.Trial(plan, told.device, threads)
        found = list(trial.causes(base))
        shares = trial.shares(base)
        took = 1000 * min(base.seconds() for _ in range(5))
    micro = plan.train.gradient_accumulation_steps
    facts = [*facts, f"here and now: {took:.1f} ms a micro-batch of {base.tokens:,} tokens"]
    if told.ms is not None and told.ms > SLOWER * took * micro:
        found.append(
            Cause(
                "other programs",
                f"a step took {told.ms:.1f} ms, here and now it takes {took * micro:.1f} ms",
                "train while nothing else runs, or leave cores free (OMP_NUM_THREADS)",
                told.ms / (took * micro),
            )
        )
    names = {cause.name for cause in found}
    return facts, [*found, *(c for c in causes if c.name not in names)], shares


def _published(told: Records) -> list[str]:
    if told.ms is None:
        return []
    model = told.plan.model
    size = sum(parameter.numel() for parameter in sketch(model).parameters())
    where = str(told.place.get("device_name", ""))
    rate = 1000 * told.tokens / told.ms
    return list(published.compare(where, size, model.block_size, rate))
