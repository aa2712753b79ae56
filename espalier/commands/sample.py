"""`espalier sample RUN`: text from a model."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from espalier import console
from espalier.errors import UserError
from espalier.starting import uncollected

if TYPE_CHECKING:
    from espalier.api import Loaded
    from espalier.engine.generate import Options
    from espalier.engine.text import Session

RULE = "---------------"  # nanoGPT's, between samples
TOP_K = 200  # nanoGPT's
TOGETHER = 16  # samples made at once
MEASURED = 8192  # validation tokens that int8 weights are measured on
ONCE = Parameter(negative=())


@Parameter(name="*")
@dataclass(frozen=True)
class How:
    """What to say and how to choose; nanoGPT's spellings work too (--start, --num_samples)."""

    prompt: Annotated[str, Parameter(alias="--start")] = ""
    """Text to go on from; FILE:prompt.txt reads one. Empty: end of text, or a newline."""
    max_new_tokens: int = 500
    """Tokens to add."""
    num_samples: int = 1
    """Texts to make from the prompt."""
    temperature: float = 0.8
    """0 takes the likeliest token each time, 1 samples as trained, more is wilder."""
    top_k: int | None = None
    """Keep the k likeliest tokens; 0 keeps all, 200 when left out."""
    top_p: float | None = None
    """Keep the likeliest tokens that together hold this probability."""
    min_p: float | None = None
    """Keep tokens at least this probable, relative to the likeliest."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that already stand there become less likely."""
    penalty: Literal["signed", "published"] = "signed"
    """published divides negative logits too, which raises them, as some published samplers do."""
    seed: int = 1337
    """The same seed gives the same text."""
    stop: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False)] = ()
    """End a text before this string; may be given several times."""
    rule: str = "crop"
    """Past the block: crop (nanoGPT's), or refill:N to drop N tokens at a time (much faster)."""
    rng: Literal["rows", "nanogpt"] = "rows"
    """nanogpt: the tokens that nanoGPT's generate draws after torch.manual_seed(SEED)."""
    weights: Literal["auto", "float32", "bf16", "int8"] = "auto"
    """How weights are kept while text is made; auto: bf16 for large models on a CPU."""
    draft: str | None = None
    """A smaller model with the same tokenizer that proposes tokens; the distribution stays."""
    record: Annotated[bool, ONCE] = False
    """On a CUDA device: record a step once as a graph and replay it."""


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """What to load."""

    step: int | None = None
    """A checkpoint of the run; the newest when left out."""
    tokenizer: str | None = None
    """For weights from elsewhere: meta.pkl, a corpus, a tokenizer.json or a name such as gpt2."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps; the best there is when left out."""
    interactive: Annotated[bool, ONCE] = False
    """Ask for prompts until the input ends or ^C."""


def sample(run: str, /, *, how: How = How(), where: Where = Where()) -> dict[str, Any]:
    """Write text with a trained model.

    Example: espalier sample runs/shakespeare --prompt "ROMEO:" --max-new-tokens 200

    Parameters
    ----------
    run
        A run, one of its checkpoint folders, nanoGPT's ckpt.pt, or a Hugging Face directory.
    """
    with uncollected():
        from espalier import api
    prompt = read_prompt(how.prompt)
    options = to_options(how)
    loaded = api.load(run, step=where.step, tokenizer=where.tokenizer, device=where.device)
    session = open_session(loaded, how, options, where.device)
    if how.top_k is not None and how.top_k > session.tokenizer.vocab_size:
        console.say(f"top_k {how.top_k}: all {session.tokenizer.vocab_size} tokens are kept")
    if where.interactive:
        return converse(session, options, how.stop)
    start = time.perf_counter()
    samples = write(session, prompt, options, how.stop)
    seconds = time.perf_counter() - start
    drawn = sum(one["tokens"] for one in samples)
    return {
        "run": run,
        "prompt": prompt,
        "seed": how.seed,
        "samples": samples,
        "tokens_per_second": drawn / seconds,
    }


def open_session(loaded: Loaded, how: How, options: Options, device: str | None) -> Session:
    """The model with its weights packed as asked, and its draft if one is named."""
    from espalier import api
    from espalier.engine.weights import fitting

    weights = fitting(loaded.model, options.sampling) if how.weights == "auto" else how.weights
    fast = loaded.packed(weights)
    if how.weights == "int8":
        console.say(cost_of(loaded, fast))
    if how.draft is None:
        return fast.session
    draft = api.load(how.draft, device=device)
    return fast.speculating(draft.packed(fitting(draft.model, options.sampling)))


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


def to_options(how: How) -> Options:
    """The engine's options; UserError for a value without a meaning."""
    from espalier.engine.generate import Options
    from espalier.engine.sampling import Sampling
    from espalier.engine.window import Rule

    sampling = Sampling(
        temperature=how.temperature,
        top_k=TOP_K if how.top_k is None else how.top_k or None,
        top_p=how.top_p,
        min_p=how.min_p,
        repetition_penalty=how.repetition_penalty,
        penalty=how.penalty,
        seed=how.seed,
        rng=how.rng,
    )
    if not all(how.stop):
        raise UserError("--stop takes a text; an empty one would stop at once")
    return Options(
        how.max_new_tokens,
        how.num_samples,
        sampling=sampling,
        rule=Rule.parse(how.rule),
        record=how.record,
    )


def read_prompt(prompt: str) -> str:
    """The prompt, or the text of `FILE:path`."""
    if not prompt.startswith("FILE:"):
        return prompt
    file = Path(prompt.removeprefix("FILE:"))
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read the prompt {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"the prompt {file} is not UTF-8 text (byte {error.start})") from None


def write(
    session: Session, prompt: str, options: Options, stop: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Make the samples and show each under a rule; a single one as it comes."""
    length = len(session.encode(prompt))
    if length > session.block_size:
        console.say(
            f"the prompt has {length} tokens, the model reads {session.block_size}: "
            "its beginning is not seen"
        )
    if options.num_samples == 1:
        return [speak(session, prompt, options, stop)]
    found = []
    for group in groups(options):
        for one in session.complete([prompt], group, stop):
            console.out(prompt + one.text)
            console.out(RULE)
            found.append({"text": one.text, "tokens": len(one.ids), "finish": one.finish})
    return found


def groups(options: Options) -> Iterator[Options]:
    """As many samples at once as fit; nanoGPT's stream makes one after another by itself."""
    if options.sampling.rng == "nanogpt":
        yield options
        return
    for first in range(0, options.num_samples, TOGETHER):
        yield replace(options, first=first, num_samples=min(TOGETHER, options.num_samples - first))


def speak(session: Session, prompt: str, options: Options, stop: tuple[str, ...]) -> dict[str, Any]:
    """One sample, shown while it grows."""
    console.out(prompt, end="")
    pieces = []
    for piece in session.stream([prompt], options, stop):
        console.out(piece.text, end="")
        pieces.append(piece)
    console.out()
    text = "".join(piece.text for piece in pieces)
    return {"text": text, "tokens": len(pieces[-1].ids), "finish": pieces[-1].finish}


def converse(session: Session, options: Options, stop: tuple[str, ...]) -> dict[str, Any]:
    """Prompt after prompt; ^C ends a text, and at the prompt the conversation."""
    console.say("a prompt, then Enter; ^C or end of input leaves")
    turns = 0
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            console.out("> ", end="")
            line = sys.stdin.readline()
            if not line:
                break
            turns += 1
            try:
                speak(session, line.rstrip("\n"), replace(options, num_samples=1), stop)
            except UserError as error:
                console.say(f"error: {error}")
            except KeyboardInterrupt:
                console.out()
    console.out()
    return {"turns": turns}
