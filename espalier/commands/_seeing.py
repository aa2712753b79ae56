"""What `sample` does with images: an answer to them, and the cache held against full passes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier import console
from espalier.errors import UserError

if TYPE_CHECKING:
    from espalier.api import Loaded
    from espalier.commands.sample import How, Look, See, Steer, Where
    from espalier.engine.chat import Asked
    from espalier.engine.generate import Options


def check_options(how: How, look: Look, steer: Steer, see: See, where: Where) -> None:
    """UserError for options that an answer to images, or a check of the cache, does not heed."""
    if not see.wanted:
        return
    given = {
        "--draft": how.draft is not None,
        "--colorize": look.colorize is not None,
        "--heatmaps": look.heatmaps is not None,
        "--vector": steer.vector is not None,
        "--save-vector": steer.save_vector is not None,
        "--source": steer.source is not None,
        "--interactive": where.interactive,
        "several --top-k": len(how.top_k) > 1,
    }
    if see.check_cache:
        # keys and values beside such weights are rounded: they differ without a fault
        given |= {f"--weights {how.weights}": how.weights in ("bf16", "int8")}
        given |= {"--stop": bool(how.stop)}
    if wrong := [name for name, is_given in given.items() if is_given]:
        task = "--check-cache" if see.check_cache else "--image"
        raise UserError(f"{task} does not go with {', '.join(wrong)}: leave one of the two out")


def sample(loaded: Loaded, see: See, prompt: str, options: Options, how: How) -> dict[str, Any]:
    """As `sample` with `see`: an answer, or the cache held against full passes.

    Unless `how` names a temperature, an answer is of the likeliest tokens.
    """
    from espalier.commands import _weighing
    from espalier.engine.chat import Asked

    if see.image:
        asked = ask(loaded, see.image, see.image_mode, prompt)
    else:
        asked = Asked(loaded.session.encode(prompt), None)
    if see.check_cache:
        return check(loaded, asked, options)
    if how.temperature is None:
        options = replace(options, sampling=replace(options.sampling, temperature=0))
    if how.weights == "int8":
        console.say("int8 weights: their cost is not measured where there are images")
    found = answer(_weighing.packed(loaded, how, options), asked, options, how.stop)
    return found | {"images": list(map(str, see.image)), "prompt": prompt}


def answer(
    loaded: Loaded, asked: Asked, options: Options, stop: Sequence[str] = ()
) -> dict[str, Any]:
    """What the model says to images and a question, once for each sample."""
    found = loaded.chat.answers([asked], options, stop)
    for one in found:
        console.out(one.text + (" …" if one.finish == "length" else ""))
        if one.finish == "loop":
            console.say("it went round in a loop, and was stopped")
    samples = [{"text": f.text, "tokens": len(f.ids), "finish": f.finish} for f in found]
    return {"samples": samples}


def ask(loaded: Loaded, files: Sequence[Path], mode: str | None, prompt: str) -> Asked:
    """The images, a newline and the question, as corpora of images have them."""
    from espalier.data.chat import Message, Shown

    if loaded.model.trunk.front is None:
        raise UserError("this model reads no images: it has no model.front")
    views = [loaded.views(file, mode) for file in files]
    said: tuple[str | Shown, ...] = (*map(Shown, range(len(files))), f"\n{prompt}")
    asked = loaded.chat.asked([Message("user", said)], views)
    room = loaded.config.model.block_size
    if len(asked.ids) >= room:
        raise UserError(f"images and question take {len(asked.ids)} tokens, the model reads {room}")
    return asked


def check(loaded: Loaded, asked: Asked, options: Options) -> dict[str, Any]:
    """The same tokens through the cache and without it, greedily; UserError where they differ."""
    from espalier.engine.generate import generate
    from espalier.engine.naive import compare
    from espalier.engine.sampling import Sampling

    model, block_size = loaded.model, loaded.config.model.block_size
    greedy = replace(options, num_samples=1, sampling=Sampling(temperature=0))
    start = time.perf_counter()
    generate(model, block_size, [asked.ids], greedy, sights=[asked.sight])
    fast = time.perf_counter() - start
    found = compare(model, block_size, asked.ids, options, asked.sight)
    slow = time.perf_counter() - start - 2 * fast  # it steps through the cache as well
    if not found.same:
        raise UserError(
            f"token {found.parted} differs between cache and full pass, by {found.gap:.2g} in "
            "logits: this is a bug; please report it with the model"
        )
    console.out(f"match: {found.tokens} tokens, cached as without a cache (greedy)")
    console.out(f"largest difference of a logit: {found.error:.1e}")
    console.out(f"without {slow:.2f} s, cached {fast:.2f} s: {slow / fast:.1f} times as fast")
    return {"match": True, "tokens": found.tokens, "error": found.error, "s": [slow, fast]}
