"""What a training run tells whoever drives it, one object at a time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Reason = Literal["horizon", "seconds", "tokens", "val_loss", "patience", "eval_only", "interrupted"]


@dataclass(frozen=True)
class Started:
    """Everything is in place; nothing has been trained in this session."""

    run: Path
    step: int
    horizon: int
    parameters: int
    trainable: int
    tokens_per_step: int
    train_tokens: int
    val_tokens: int
    images: str
    """what there is to see; empty for text"""
    device: str
    threads: int
    precision: str
    exact: bool
    """bit for bit the same on this machine, with these threads and this torch"""
    ranks: int = 1
    """processes that train it together"""


@dataclass(frozen=True)
class Noted:
    """Something a person should know."""

    step: int
    message: str


@dataclass(frozen=True)
class Stepped:
    """Every log_interval updates; times are means over them."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    tokens_per_s: float
    mfu: float | None
    ms: float
    seconds: float
    """of training so far, over all sessions"""
    shares: Mapping[str, float] = field(default_factory=dict)
    """what parts told of this update: `silent`, …"""


@dataclass(frozen=True)
class Evaluated:
    step: int
    train_loss: float
    val_loss: float
    tokens: int
    best: bool
    """the lowest validation loss so far"""
    shares: Mapping[str, float] = field(default_factory=dict)
    """what parts told of validation"""


@dataclass(frozen=True)
class Sampled:
    step: int
    text: str
    """with its prompt"""


@dataclass(frozen=True)
class Saved:
    step: int
    path: Path


@dataclass(frozen=True)
class Finished:
    """The last event. `summary` is also results/train.json, except after an interruption."""

    step: int
    reason: Reason
    summary: dict[str, Any]


Event = Started | Noted | Stepped | Evaluated | Sampled | Saved | Finished
