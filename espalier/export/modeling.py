"""A model of Espalier as a class of transformers; bundled into `modeling_espalier.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from espalier.export.standin import read
from espalier.nn.gpt import GPT
from espalier.nn.slots import Part
from espalier.nn.state import Image, Pass, seeing


class EspalierConfig(PretrainedConfig):  # type: ignore[misc]
    """`model` is the whole architecture: each mapping names its class in this file."""

    model_type = "espalier"

    def __init__(self, model: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.model = model or {}
        super().__init__(**kwargs)


class EspalierForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """Logits of the next token; `generate` runs the whole text at every step (no cache)."""

    config_class = EspalierConfig
    base_model_prefix = "model"

    def __init__(self, config: EspalierConfig) -> None:
        super().__init__(config)
        self.model: GPT = read(config.model).build()
        self._tied_weights_keys = shared(self)
        self.post_init()

    def get_input_embeddings(self) -> Part:
        return self.model.trunk.embed

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        """Fill what no file holds, such as tables; what came from a file is put back."""
        if not isinstance(module, Part):
            return
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        held = [(t, t.clone()) for t in own if getattr(t, "_is_hf_initialized", False)]
        module.reset()
        for tensor, value in held:
            tensor.copy_(value)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        images: Sequence[Image] = (),
        slots: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Logits (batch, time, vocabulary) and, with labels, the mean loss of the next token.

        Padding may stand anywhere: tokens move to the left for the pass, and logits back. `images`
        are of all rows, in order, in [-1, 1]: the whole (3, side, side), and its tiles (rows,
        columns, 3, side, side) or None. `slots` (batch, time): which of all their features stands
        there, counted through; -1: the token.
        """
        batch, time = input_ids.shape
        positions = torch.arange(time, device=input_ids.device).expand(batch, -1)
        slots = torch.full_like(input_ids, -1) if slots is None else slots
        if attention_mask is None or bool(attention_mask.all()):
            logits = self.model(input_ids, seeing(Pass(positions), images, slots))
        else:
            order = (attention_mask == 0).long().argsort(dim=1, stable=True)
            there = positions < attention_mask.sum(1, keepdim=True)
            now = Pass(torch.where(there, positions, -1))
            seeing(now, images, slots.gather(1, order))
            packed = self.model(input_ids.gather(1, order), now)
            logits = torch.empty_like(packed)
            logits.scatter_(1, order[..., None].expand_as(packed), packed)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1], **kwargs)
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        images: Sequence[Image] = (),
        slots: Tensor | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """The newest tokens, as many as the model has positions for; `slots` are of the prompt."""
        most = self.config.max_position_embeddings
        found: dict[str, Any] = {"input_ids": input_ids[:, -most:], "images": images}
        found["attention_mask"] = None if attention_mask is None else attention_mask[:, -most:]
        if slots is not None:
            new = input_ids.shape[1] - slots.shape[1]
            found["slots"] = F.pad(slots, (0, new), value=-1)[:, -most:]
        return found


def shared(model: nn.Module) -> dict[str, str]:
    """Further names of parameters that several layers share, with the first of each."""
    first: dict[int, str] = {}
    named = model.named_parameters(remove_duplicate=False)
    found = {name: first.setdefault(id(parameter), name) for name, parameter in named}
    return {name: other for name, other in found.items() if name != other}
