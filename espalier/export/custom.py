"""Models that transformers has no class for: they bring their own, made from their parts' sources.

The directory is loaded with `trust_remote_code=True` and needs torch and transformers, nothing of
Espalier.
"""

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from torch import Tensor

from espalier.config import Config, PartConfig, encode
from espalier.export.bundle import Bundle
from espalier.nn.gpt import GPTConfig, LayerConfig

FILE, PREFIX = "modeling_espalier", "model."
MODELING = "espalier.export.modeling"  # its source is bundled; importing it would cost seconds
CLASSES = ((MODELING, "EspalierForCausalLM"), (MODELING, "EspalierConfig"))
HEADER = '''# Copyright: the authors of Espalier and of the parts below. Licence: Apache-2.0
# (https://www.apache.org/licenses/LICENSE-2.0), but for parts of somebody's own, which have theirs.
# ruff: noqa: F722, F821, N802
"""A language model of Espalier, in one file made of the sources of its parts.

Shapes in annotations are notes of jaxtyping's kind and are never evaluated. Read it from the end.
"""

from __future__ import annotations

'''


class Custom:
    """The class, configuration and weights of a model with parts of its own."""

    def __init__(self, config: GPTConfig) -> None:
        self.model = config
        kinds = dict.fromkeys(_kinds(whole(config)))
        self.bundle = Bundle([*CLASSES, *((kind.__module__, kind.__name__) for kind in kinds)])

    def source(self) -> str:
        """The text of modeling_espalier.py."""
        return HEADER + self.bundle.source()

    def config(self) -> dict[str, Any]:
        """config.json."""
        model = self.model
        return {
            "model_type": "espalier",
            "architectures": ["EspalierForCausalLM"],
            "auto_map": {
                "AutoConfig": f"{FILE}.EspalierConfig",
                "AutoModelForCausalLM": f"{FILE}.EspalierForCausalLM",
            },
            "vocab_size": model.vocab_size,
            "hidden_size": model.n_embd,
            "num_hidden_layers": model.n_layer,
            "num_attention_heads": model.n_head,
            "max_position_embeddings": model.block_size,
            "tie_word_embeddings": True,  # what layers share is shared again on loading
            "use_cache": False,
            "model": self._tree(whole(model)),
        }

    def tensors(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of the class."""
        return {f"{PREFIX}{name}": tensor for name, tensor in weights.items()}

    def _tree(self, value: Any) -> Any:
        if isinstance(value, Config):
            head = {"class": self.bundle.name(type(value))}
            if isinstance(value, PartConfig):
                head["name"] = value.name
            fields = {key: getattr(value, key) for key in type(value).model_fields}
            return head | {key: self._tree(item) for key, item in fields.items()}
        if isinstance(value, Mapping):
            return {key: self._tree(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._tree(item) for item in value]
        return value


def whole(config: GPTConfig) -> GPTConfig:
    """Layers that differ written out, each run of equal ones with its whole block."""
    if config.layers is None and config.cycle is None:
        return config
    runs = [list(run) for _, run in groupby(config.blocks(), key=encode)]
    written = tuple(LayerConfig(repeat=len(run), block=run[0]) for run in runs)
    return config.model_copy(update={"layers": written, "cycle": None})


def _kinds(value: Any) -> Iterator[type[Config]]:
    """The classes of a configuration and of all inside it."""
    if isinstance(value, Config):
        yield type(value)
        for key in type(value).model_fields:
            yield from _kinds(getattr(value, key))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _kinds(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _kinds(item)
