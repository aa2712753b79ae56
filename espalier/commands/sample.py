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
    from espalier.report.sampled import Reread

RULE = "---------------"  # nanoGPT's, between samples
TOP_K, TEMPERATURE = 200, 0.8  # nanoGPT's
TOGETHER = 16  # samples made at once
ONCE = Parameter(negative=())
OPTIONAL = Parameter(negative=(), consume_multiple=(0, 1))


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
    temperature: float | None = None
    """0 takes the likeliest token each time, 1 samples as trained; 0.8, before images 0."""
    top_k: Annotated[tuple[int, ...], Parameter(negative=(), consume_multiple=False)] = ()
    """Keep the k likeliest tokens; 0 keeps all, 200 when left out. Several: once for each."""
    top_p: float | None = None
    """Keep the likeliest tokens that together hold this probability."""
    min_p: float | None = None
    """Keep tokens at least this probable, relative to the likeliest."""
    softmax_threshold: float | None = None
    """The same as --min-p, with --top-k 0 unless that is given."""
    cosine_penalty: tuple[int, float] | None = None
    """N ALPHA: lower tokens by ALPHA times their likeness to one of the last N (5 1.0 is usual)."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that already stand there become less likely."""
    penalty: Literal["signed", "published"] = "signed"
    """published divides negative logits too, which raises them, as some published samplers do."""
    score: str | None = None
    """Make probabilities by one of attention's scores instead of softmax, say softermax."""
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
    no_repeat_ngram: tuple[int, int] | None = None
    """N WINDOW: no N tokens stand twice within so many (pages: 20 90)."""
    stop_loops: Annotated[bool, ONCE] = False
    """End a text that goes round in a loop."""


@Parameter(name="*")
@dataclass(frozen=True)
class Look:
    """How the model saw what it wrote. Pages and figures go to a folder."""

    colorize: Annotated[
        tuple[Literal["minmax", "probability", "rank", "dot"], ...] | None, OPTIONAL
    ] = None
    """Colour each token: minmax (when left out), probability, rank, or dot."""
    heatmaps: Annotated[tuple[Literal["each"], ...] | None, OPTIONAL] = None
    """Draw the likeliest tokens of every step; each: a figure for every token too."""
    save: Path | None = None
    """The folder; RUN/results/sample when left out, or ./sample for what is no run."""

    @property
    def wanted(self) -> bool:
        return self.colorize is not None or self.heatmaps is not None


@Parameter(name="*")
@dataclass(frozen=True)
class See:
    """Images to read, for a model with model.front."""

    image: Annotated[tuple[Path, ...], Parameter(negative=(), consume_multiple=False)] = ()
    """A file that stands before the prompt; several, in order. The model answers."""
    image_mode: str | None = None
    """tiny, small, base, large, gundam or a side in pixels; as in training when left out."""
    check_cache: Annotated[bool, ONCE] = False
    """Hold each greedy token through the cache against a full pass, and write no text."""

    @property
    def wanted(self) -> bool:
        return bool(self.image) or self.check_cache


@Parameter(name="*")
@dataclass(frozen=True)
class Steer:
    """What to add to a layer's output, or to learn from it."""

    save_vector: Path | None = None
    """Write the mean over the prompt of a layer's output to this file, and no text."""
    vector: str | None = None
    """FILE of --save-vector to add to its layer's output; FILE,FILE2 adds the difference."""
    vector_scale: float = 1.0
    """How much of it."""
    vector_layer: int | None = None
    """The layer, from 0: to save from (the middle one), or to add to (where it was saved)."""
    source: int | None = None
    """Which corpus to write as, for a model with model.steering."""


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


def sample(
    run: str,
    /,
    *,
    how: How = How(),
    look: Look = Look(),
    steer: Steer = Steer(),
    see: See = See(),
    where: Where = Where(),
) -> dict[str, Any]:
    """Write text with a trained model.

    Example: espalier sample runs/shakespeare --prompt "ROMEO:" --max-new-tokens 200
    Example: espalier sample runs/reader --image page.png --prompt "Free OCR."

    Parameters
    ----------
    run
        A run, one of its checkpoint folders, nanoGPT's ckpt.pt, or a Hugging Face directory.
    """
    with uncollected():
        from espalier import api
        from espalier.commands import _seeing, _weighing
    _seeing.check_options(how, look, steer, see, where)
    check_places(look, steer)
    prompt = read_prompt(how.prompt)
    every = [to_options(how, k) for k in how.top_k or (None,)]
    loaded = api.load(run, step=where.step, tokenizer=where.tokenizer, device=where.device)
    if see.wanted:
        return _seeing.sample(loaded, see, prompt, every[0], how)
    session = _weighing.open_session(loaded, how, every[0], where)
    if (saved := _weighing.steered(session, prompt, steer)) is not None:
        return saved
    for k in how.top_k:
        if k > session.tokenizer.vocab_size:
            console.say(f"top_k {k}: all {session.tokenizer.vocab_size} tokens are kept")
    if where.interactive:
        if look.wanted or len(every) > 1:
            raise UserError(
                "--interactive shows plain text: no --colorize, --heatmaps, one --top-k"
            )
        return converse(session, every[0], how.stop)
    start = time.perf_counter()
    samples = []
    for options in every:
        if len(every) > 1 and look.colorize is None:
            console.out(f"top_k {options.sampling.top_k or 'all'}")
        samples += write(session, prompt, options, how.stop, quiet=look.colorize is not None)
    seconds = time.perf_counter() - start
    found = {
        "run": run,
        "prompt": prompt,
        "seed": how.seed,
        "samples": samples,
        "tokens_per_second": sum(one["tokens"] for one in samples) / seconds,
    }
    if look.wanted or every[0].cosine is not None:
        from espalier.report.sampled import Reread

        widest = max(every, key=lambda options: options.sampling.top_k or math.inf)
        again = Reread(session, prompt, _named(samples, len(every) > 1), widest)
        found |= examine(again, look, _folder(loaded, look))
    return found


def examine(again: Reread, look: Look, folder: Path) -> dict[str, Any]:
    """Show how the model saw what it wrote: the cosine penalty's cost, colours, figures."""
    from espalier.report import colours

    found: dict[str, Any] = {}
    if again.options.cosine is not None:
        kl = found["cosine_penalty_kl"] = again.divergence
        console.say(f"cosine penalty: mean KL(before || after) {kl:.4f} nats a token")
    files: list[Path] = []
    if look.colorize is not None:
        mode = look.colorize[0] if look.colorize else "minmax"
        for name, pieces in zip(again.names, again.coloured(mode), strict=True):
            if len(again.names) > 1:
                console.out(f"{name}:")
            console.out(colours.terminal(pieces, painted=console.in_colour()))
            console.out(RULE)
        console.say(colours.terminal_legend(mode, again.reddest, painted=console.in_colour()))
        files.append(again.save_page(mode, folder))
    if look.heatmaps is not None:
        files += again.save_heatmaps(folder, each=bool(look.heatmaps))
    if files:
        console.say(f"wrote {', '.join(file.name for file in files[:4])} … in {folder}")
        found["files"] = [str(file) for file in files]
    return found


def _named(samples: list[dict[str, Any]], by_k: bool) -> dict[str, list[int]]:
    """Ids of each sample under a name of its own."""
    return {
        f"sample {i}" + f", top_k {one['top_k'] or 'all'}" * by_k: one["ids"]
        for i, one in enumerate(samples, 1)
    }


def _folder(loaded: Loaded, look: Look) -> Path:
    if look.save is not None:
        return look.save
    return Path("sample") if loaded.run is None else loaded.run.path / "results" / "sample"


def check_places(look: Look, steer: Steer) -> None:
    """UserError where what is to be written has no place, before a model is loaded for it."""
    if look.wanted and look.save is not None and look.save.exists() and not look.save.is_dir():
        raise UserError(f"--save {look.save} is a file: name a folder")
    file = steer.save_vector
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        raise UserError(f"--save-vector {file}: name a file in a directory that is there")


def to_options(how: How, top_k: int | None = None) -> Options:
    """The engine's options; UserError for a value without a meaning."""
    from espalier.engine.generate import Options
    from espalier.engine.loops import NoRepeat
    from espalier.engine.repel import Cosine
    from espalier.engine.sampling import Sampling
    from espalier.engine.window import Rule

    threshold = how.softmax_threshold
    if threshold is not None and how.min_p is not None:
        raise UserError("--softmax-threshold and --min-p are one rule: give one of the two")
    usual = TOP_K if threshold is None else None
    sampling = Sampling(
        temperature=TEMPERATURE if how.temperature is None else how.temperature,
        top_k=usual if top_k is None else top_k or None,
        top_p=how.top_p,
        min_p=how.min_p if threshold is None else threshold,
        repetition_penalty=how.repetition_penalty,
        penalty=how.penalty,
        score=how.score,
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
        cosine=None if how.cosine_penalty is None else Cosine(*how.cosine_penalty),
        record=how.record,
        no_repeat=None if how.no_repeat_ngram is None else NoRepeat(*how.no_repeat_ngram),
        stop_loops=how.stop_loops,
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
    session: Session, prompt: str, options: Options, stop: tuple[str, ...], *, quiet: bool = False
) -> list[dict[str, Any]]:
    """Make the samples and show each under a rule, unless `quiet`; a single one as it comes."""
    length = len(session.encode(prompt))
    if length > session.block_size:
        console.say(
            f"the prompt has {length} tokens, the model reads {session.block_size}: "
            "its beginning is not seen"
        )
    if options.num_samples == 1 and not quiet:
        return [speak(session, prompt, options, stop)]
    found = []
    for group in groups(options):
        for one in session.complete([prompt], group, stop):
            if not quiet:
                console.out(prompt + one.text)
                console.out(RULE)
            found.append(_sample(one.text, one.ids, one.finish, options))
    return found


def _sample(text: str, ids: list[int], finish: str | None, options: Options) -> dict[str, Any]:
    k = options.sampling.top_k
    return {"text": text, "tokens": len(ids), "finish": finish, "top_k": k, "ids": ids}


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
    return _sample(text, pieces[-1].ids, pieces[-1].finish, options)


def converse(session: Session, options: Options, stop: tuple[str, ...]) -> dict[str, Any]:
    """Prompt after prompt; ^C ends a text, and at the prompt the conversation."""
    console.say("a prompt, then Enter; ^C or end of input leaves")
    console.forgive()
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
