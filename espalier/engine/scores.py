"""Probabilities of the next token from one of attention's scores, in softmax's place."""

import functools
import math

from jaxtyping import Float
from torch import Tensor

from espalier.config import Config, decode
from espalier.errors import UserError
from espalier.nn.slots import Dims, Part, ScoreConfig, reset
from espalier.nn.state import at
from espalier.tree import parse_value


class _Output(Config):
    score: ScoreConfig


@functools.cache
def named(score: str) -> Part:
    """The score NAME or {name: NAME, FIELD: VALUE}, as training would start it.

    Raises ConfigError for one that does not exist.
    """
    config = decode(_Output, {"score": parse_value(score)}).score
    part = config.build(Dims(n_layer=1, n_embd=1, n_head=1, block_size=1, vocab_size=1), 0)
    reset(part, 0)
    return part.eval()


def shares(logits: Float[Tensor, "rows vocab"], score: str) -> Float[Tensor, "rows vocab"]:
    """The weights of a score over all that is not -inf, divided by their sum.

    UserError where it gives no token a weight, as one that is 0 below 0 may.
    """
    seen = logits > -math.inf
    a_query = (slice(None), None, None)  # each row of one head
    weights = named(score).to(logits.device)(
        logits.masked_fill(~seen, 0.0)[a_query], seen[a_query], at(logits[:, :1])
    )[:, 0, 0]
    total = weights.sum(-1, keepdim=True)
    if not (total > 0).all():
        raise UserError(f"the score {score} gives no token a weight here: take another one")
    found: Tensor = weights / total
    return found
