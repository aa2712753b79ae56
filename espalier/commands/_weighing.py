"""What `sample` does to a model first: weights kept small, a draft, and a steering vector."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from espalier import console
from espalier.errors import UserError

if TYPE_CHECKING:
    from espalier.api import Loaded
    from espalier.commands.sample import How, Steer, Where
    from espalier.engine.generate import Options
    from espalier.engine.text import Session

MEASURED = 8192  # validation tokens that int8 weights are measured on


def packed(loaded: Loaded, how: How, options: Options) -> Loaded:
    """The model with its weights kept as asked."""
    from espalier.engine.weights import fitting

    weights = fitting(loaded.model, options.sampling) if how.weights == "auto" else how.weights
    return loaded.packed(weights)


def open_session(loaded: Loaded, how: How, options: Options, where: Where) -> Session:
    """The model with its weights packed as asked, and its draft if one is named."""
    fast = packed(loaded, how, options)
    if how.weights == "int8":
        console.say(cost_of(loaded, fast))
    if how.draft is None:
        return fast.session
    return fast.speculating(open_draft(how.draft, options, where))


def open_draft(run: str, options: Options, where: Where) -> Loaded:
    """A model that proposes; one that has no tokenizer has --tokenizer's."""
    from espalier import api
    from espalier.engine.weights import fitting

    draft = api.load(run, device=where.device)
    if where.tokenizer is not None:
        try:
            draft.tokenizer  # noqa: B018 - looked for when asked
        except UserError:
            draft = api.load(run, tokenizer=where.tokenizer, device=where.device)
    return draft.packed(fitting(draft.model, options.sampling))


def steered(session: Session, prompt: str, steer: Steer) -> dict[str, Any] | None:
    """Push the model from here on; what was saved, where that was asked for."""
    from espalier.engine import steer as engine

    model, layer = session.model, steer.vector_layer
    if steer.source is not None:
        engine.choose(model, steer.source)
    if steer.vector is not None:
        engine.push(model, engine.between(steer.vector.split(","), layer), steer.vector_scale)
    if steer.save_vector is None:
        return None
    ids = session.encode(prompt)[-session.block_size :]
    vector = engine.listen(model, ids, layer)
    vector.write(steer.save_vector)
    console.say(f"wrote layer {vector.layer}'s mean over {len(ids)} tokens to {steer.save_vector}")
    return {"vector": str(steer.save_vector), "layer": vector.layer, "tokens": len(ids)}


def cost_of(loaded: Loaded, packed: Loaded) -> str:
    """What the packed weights do to the perplexity, over a few validation windows of the run."""
    from espalier.data.corpus import Corpus
    from espalier.data.loader import windows
    from espalier.evaluate.loss import score, spread

    size, place = loaded.config.model.block_size, loaded.config.data.corpus
    try:
        tokens = Corpus.open(place or "").val
        starts = spread(windows(tokens, size), max(1, MEASURED // size))
    except UserError:
        return "int8 weights: the run's corpus is not here, so their perplexity is not measured"
    before, after = (score(one.model, tokens, starts, size).loss for one in (loaded, packed))
    change = 100 * math.expm1(after - before)
    return (
        f"int8 weights: perplexity {math.exp(before):.3f} -> {math.exp(after):.3f} "
        f"({change:+.2f} %) on {len(starts)} windows of {size} tokens of the validation split"
    )
