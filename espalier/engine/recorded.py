"""A step of generation, recorded once as a CUDA graph and replayed without the host's part."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from espalier.errors import UserError
from espalier.nn.gpt import GPT
from espalier.nn.state import Frame, Pass


def check(device: torch.device) -> None:
    """UserError where there are no graphs to record."""
    if device.type != "cuda":
        raise UserError(f"a step can be recorded on a CUDA device only, not on {device.type}")


class Recorded:
    """The trunk's step on these states, for as many rows as they have.

    Raises RuntimeError where a part does what cannot be recorded (waits for the host, copies from
    it); the states are then as they were, since only idle steps were tried.
    """

    def __init__(self, model: GPT, states: Frame, length: int, rows: int, device: torch.device):
        self.states = states
        self.ids = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.positions = torch.full_like(self.ids, -1)

        def step() -> Tensor:
            return model.trunk(self.ids, Pass(self.positions, states, length, fresh=False))

        aside: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):  # libraries set themselves up outside of the recording
            step()
            step()
        torch.cuda.current_stream(device).wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        # records on the present device, which need not be this one; what other threads do (a
        # server's, a mirror's) does not break a recording of this thread alone
        record: Any = torch.cuda.graph(self.graph, capture_error_mode="thread_local")
        with torch.cuda.device(device), record:
            self.hidden = step()

    def __call__(
        self, ids: Int[Tensor, "rows 1"], positions: Int[Tensor, "rows 1"]
    ) -> Float[Tensor, "rows 1 d"]:
        self.ids.copy_(ids)
        self.positions.copy_(positions)
        self.graph.replay()
        return self.hidden.clone()
