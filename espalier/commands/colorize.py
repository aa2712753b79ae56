"""`espalier colorize CORPUS --run RUN`: a corpus' text, coloured by how a model sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from espalier import console
from espalier.errors import UserError
from espalier.starting import uncollected


def colorize(
    corpus: Path,
    /,
    *,
    run: str,
    mode: Literal["loss", "probability", "rank", "minmax"] = "loss",
    split: Literal["train", "val"] = "val",
    tokens: int = 512,
    offset: int = 0,
    window: Literal["block", "rolling"] = "rolling",
    html: Path | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Colour a corpus' text by the model's loss at each token; red where it was surprised.

    Example: espalier colorize data/shakespeare --run runs/shakespeare --tokens 300

    Parameters
    ----------
    corpus
        What `espalier prepare` wrote, of the run's tokenizer.
    run
        A run, or anything else that `sample` takes.
    mode
        loss, probability, rank (no colour: the likeliest) or minmax (the token's logit).
    split
        train or val.
    tokens
        How many.
    offset
        The first of them; it is shown, but nothing stands before it to foresee it by.
    window
        block: windows side by side, so that a window's first tokens see little; rolling: half of
        each window is what the one before saw too, at twice the cost. One pass for each window.
    html
        Also write a page here.
    device
        cpu, cuda, cuda:1, mps; the best there is when left out.
    """
    with uncollected():
        from espalier import api
    from espalier.engine.trace import Look, trace
    from espalier.engine.window import Rule
    from espalier.report import colours, seen

    loaded = api.load(run, device=device)
    size = loaded.config.model.block_size
    ids = _ids(corpus, split, (offset, tokens), loaded)
    rule = Rule(size if window == "block" else max(1, size // 2))
    look = Look(vocab_size=loaded.tokenizer.vocab_size)
    found = trace(loaded.model, ids, 1, size, rule=rule, look=look)
    words = seen.texts(loaded.tokenizer, (), ids)
    k = loaded.tokenizer.vocab_size
    pieces = [colours.Piece(words[0]), *seen.pieces(mode, found, words[1:], k)]
    console.out(colours.terminal(pieces, painted=console.in_colour()))
    console.say(colours.terminal_legend(mode, k, painted=console.in_colour()))
    loss = float(found.loss.mean())
    console.say(f"loss {loss:.4f} over {len(ids) - 1} tokens of {split}, windows: {window}")
    if html is not None:
        _write(html, f"{corpus} by {mode}", mode, pieces)
    return {
        "corpus": str(corpus),
        "run": run,
        "loss": loss,
        "tokens": [
            {"id": int(i), "text": word, "loss": float(one), "rank": int(rank)}
            for i, word, one, rank in zip(ids[1:], words[1:], found.loss, found.rank, strict=True)
        ],
    }


def _ids(place: Path, split: str, part: tuple[int, int], loaded: Any) -> list[int]:
    from espalier.data.corpus import Corpus

    corpus = Corpus.open(place)
    if corpus.vocab_size > (loaded.config.model.vocab_size or 0):
        raise UserError(
            f"{place} has {corpus.vocab_size} tokens, the model knows "
            f"{loaded.config.model.vocab_size}: it is another tokenizer's"
        )
    text = corpus.train if split == "train" else corpus.val
    first, count = part
    if first < 0 or count < 2:
        raise UserError(f"--offset is 0 or more and --tokens at least 2, got {first} and {count}")
    count = min(count, len(text) - first)
    if count < 2:
        raise UserError(f"{split} has {len(text):,} tokens: none to show from {first:,} on")
    return [int(token) for token in text.gather([first], count)[0]]


def _write(html: Path, title: str, mode: Any, pieces: list[Any]) -> None:
    from espalier.durable import write_asked
    from espalier.report import colours

    low, high = colours.legend(mode)
    about = f"red: {low}; green: {high}"
    write_asked(html, colours.page(title, [("", about, pieces)]))
    console.say(f"wrote {html}")
