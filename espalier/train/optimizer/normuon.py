"""NorMuon: Muon whose neurons are brought to one size of step (arXiv:2510.05491)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from espalier.train.optimizer.adamw import AdamW
from espalier.train.optimizer.muon import orthogonalise
from espalier.train.rule import Memory, Rule
from espalier.train.slots import Decayed, Named, Optimizer, OptimizerConfig


class NorMuonConfig(OptimizerConfig):
    """O = orthogonalise(momentum); v = beta2 v + (1 - beta2) mean(O^2) of each row;

    p -= lr * (0.2 sqrt(rows columns) U / |U| + decay * p) with U = O / sqrt(v); AdamW for the rest.
    Steps have AdamW's size, so that it takes AdamW's learning rate.
    """

    momentum: float = Field(0.95, ge=0, lt=1)
    row_beta2: float = Field(0.95, ge=0, lt=1)
    nesterov: bool = False
    """the paper's algorithm has none; some implementations do"""
    ns_steps: int = Field(5, ge=1, lt=100)
    coefficients: Literal["quintic", "polar_express"] = "quintic"
    rest: float = Field(1.0, gt=0)
    """learning rate of what is no matrix, as a share of train.learning_rate"""
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    decay: Decayed = ("matrix",)

    def build(self, parameters: list[Named], weight_decay: float) -> Optimizer:
        return NorMuon(self, parameters, weight_decay)


class NorMuon(Optimizer):
    """A fused projection counts as the matrices it holds."""

    by_matrix = True

    def __init__(self, config: NorMuonConfig, parameters: list[Named], weight_decay: float):
        matrices = [named for named in parameters if named.role == "matrix"]
        others = [named for named in parameters if named.role != "matrix"]
        betas = config.beta1, config.beta2
        self.share = config.rest
        self.matrices = _Matrices(config, matrices, weight_decay)
        self.others = AdamW(others, weight_decay, betas, config.eps, config.decay)

    def step(self, learning_rate: float, scale: Tensor, skip: Tensor) -> None:
        self.others.step(learning_rate * self.share, scale, skip)
        self.matrices.step(learning_rate, scale, skip)

    def state(self) -> dict[str, Tensor]:
        return self.matrices.state() | self.others.state()


class _Matrices(Rule):
    by_matrix = True

    def __init__(self, config: NorMuonConfig, parameters: list[Named], weight_decay: float):
        self.config = config
        super().__init__(parameters, weight_decay, config.decay)

    def blank(self, weight: Tensor) -> Memory:
        return {"momentum": torch.zeros_like(weight), "rows": torch.zeros_like(weight[:, :1])}

    def direction(self, grad: Tensor, weight: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        config = self.config
        mean = torch.lerp(memory["momentum"], grad, 1 - config.momentum)
        chosen = torch.lerp(grad, mean, config.momentum) if config.nesterov else mean
        tall = chosen.shape[0] > chosen.shape[1]
        wide = (chosen.mT if tall else chosen)[None]
        found = orthogonalise(wide, config.ns_steps, config.coefficients)[0].to(grad)
        way = found.mT if tall else found
        rows = torch.lerp(memory["rows"], way.square().mean(1, keepdim=True), 1 - config.row_beta2)
        way = way / (rows.sqrt() + config.eps)
        way = way * (0.2 * math.sqrt(way.numel()) / way.norm().clamp(min=config.eps))
        return way, {"momentum": mean, "rows": rows}
