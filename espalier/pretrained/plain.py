"""A lone safetensors file in our own names, with the recipe that says what they mean."""

from pathlib import Path

from espalier.config import refine
from espalier.errors import UserError
from espalier.nn.gpt import GPTConfig, sketch
from espalier.pretrained import files
from espalier.pretrained.foreign import Foreign, once
from espalier.pretrained.table import Row, to_ours

EMBEDDING = "trunk.embed.weight"


def read(file: Path, config: GPTConfig) -> Foreign:
    """Every tensor of the model must be there, in its shape, and no other.

    A vocabulary that `config` leaves open is the embedding's.
    """
    held = files.read_safetensors(file)
    if config.vocab_size is None:
        if EMBEDDING not in held:
            raise UserError(f"{file} has no {EMBEDDING}: give model.vocab_size in the recipe")
        config = refine(config, {"vocab_size": len(held[EMBEDDING])})
    rows = [Row(name, name) for name in dict.fromkeys(once(sketch(config)).values())]
    if config.head.name == "tied":
        held.pop("head.weight", None)
    return Foreign("plain", file, config, to_ours(held, rows, config, str(file)))
