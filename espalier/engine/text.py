"""Text in, text out piece by piece: never half a character, never half a stop string."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from espalier.data.tokenizer.base import END_OF_TEXT, Tokenizer
from espalier.engine.generate import Generation, Options
from espalier.engine.sampling import Source, desk, source
from espalier.engine.speculate import Draft, Speculation
from espalier.errors import UserError
from espalier.nn.gpt import GPT

REPLACEMENT = "\ufffd"
CONTEXT = 8  # tokens kept, so that a tokenizer that looks at neighbours spaces the next one rightly
LONGEST = 4  # bytes of a character


class Decoder:
    """Ids to text as they come; bytes of an unfinished character are kept back.

    Such a character is one U+FFFD to some tokenizers and one for each byte to others. To a decoder
    of Llama's kind (ByteFallback) it also turns finished neighbours in bytes into U+FFFD meanwhile.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()):
        self.tokenizer = tokenizer
        self.own = _own_replacement(tokenizer)
        self.ids = self._newest(prompt)
        self.known = len(self.ids)  # of them, all of whose text is said
        self.said = self._text(self.ids)  # begins the text of `ids`

    def push(self, token: int) -> str:
        """The text that is certain now."""
        self.ids.append(token)
        text = self._text(self.ids)
        if not text.startswith(self.said):
            if self._held(text) and len(self.ids) - self.known < LONGEST:
                return ""
            text = self._anew()
        settled = max(len(self.said), len(text) - self._held(text))
        piece, self.said = text[len(self.said) : settled], text[:settled]
        if settled == len(text):
            if len(self.ids) > 4 * CONTEXT:
                self.ids = self._newest(self.ids)
                self.said = self._text(self.ids)
            self.known = len(self.ids)
        return piece

    def _held(self, text: str) -> int:
        """How many characters at its end may be bytes of an unfinished one."""
        if self.own and self.ids[-len(self.own) :] == self.own:
            return 0
        return min(len(text) - len(text.rstrip(REPLACEMENT)), LONGEST - 1)

    def flush(self) -> str:
        """What was kept back, a broken character as U+FFFD."""
        text = self._text(self.ids)
        if not text.startswith(self.said):
            text = self._anew()
        piece, self.said = text[len(self.said) :], text
        return piece

    def _anew(self) -> str:
        """The text of the ids that nothing was said of, where they changed what was."""
        self.ids, self.known, self.said = self.ids[self.known :], 0, ""
        return self._text(self.ids)

    def _newest(self, ids: Sequence[int]) -> list[int]:
        """The last `CONTEXT` ids or a few more, from the beginning of a character on."""
        ends = (list(ids[-size:]) for size in range(CONTEXT, CONTEXT + LONGEST))
        whole = (end for end in ends if not self._text(end).startswith(REPLACEMENT))
        return next(whole, list(ids[-CONTEXT:]))

    def _text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids) if ids else ""


def _own_replacement(tokenizer: Tokenizer) -> list[int]:
    """How a text's own U+FFFD is spelled, after which nothing is unfinished; [] if it cannot be."""
    try:
        return list(map(int, tokenizer.encode(REPLACEMENT)))
    except UserError:
        return []


class Stops:
    """Cuts text before the first stop string, also one that comes in several pieces."""

    def __init__(self, strings: Sequence[str]):
        if not all(strings):
            raise UserError("an empty stop string would stop at once; leave it out")
        self.strings = tuple(strings)
        self.held = ""
        self.met = False

    def push(self, piece: str) -> str:
        """What may be shown; `met` is set when a stop string is complete."""
        text = self.held + piece
        places = [place for stop in self.strings if (place := text.find(stop)) >= 0]
        if places:
            self.met, self.held = True, ""
            return text[: min(places)]
        keep = self._beginning(text)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The beginning of a stop string that never came."""
        text, self.held = self.held, ""
        return text

    def _beginning(self, text: str) -> int:
        """Length of the longest end of `text` with which some stop string begins."""
        longest = max(map(len, self.strings), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[len(text) - size :]) for stop in self.strings):
                return size
        return 0


Finish = Literal["length", "stop", "loop"]


@dataclass(frozen=True)
class Piece:
    """New text of a row; `finish` says that it was the last, and why."""

    row: int
    text: str
    ids: list[int]
    """every token the row has drawn so far"""
    finish: Finish | None = None


@dataclass(frozen=True)
class Completion:
    """One row, whole."""

    text: str
    """without the prompt and without the stop string"""
    ids: list[int]
    """every token drawn"""
    finish: Finish


class Session:
    """A model that speaks text.

    `block_size` is what the model reads at once. The tokenizer's vocabulary may be smaller than the
    model's (padded for speed); ids it cannot spell are never drawn. With a `draft` rows are made
    one after another, by speculation.
    """

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, block_size: int, draft: Draft | None = None
    ):
        self.model, self.tokenizer, self.block_size = model, tokenizer, block_size
        self.draft = draft

    def encode(self, prompt: str) -> list[int]:
        """Ids of a prompt; an empty one becomes the end-of-text token, or a newline without one.

        `<|endoftext|>` is that token where the tokenizer has one, as in nanoGPT's sample.py. Raises
        UserError for characters the tokenizer does not know.
        """
        eot = self.tokenizer.eot
        if eot is None:
            return list(map(int, self.tokenizer.encode(prompt or "\n")))
        ids: list[int] = []
        for i, part in enumerate(prompt.split(END_OF_TEXT)):
            ids += [eot] * (i > 0)
            ids += map(int, self.tokenizer.encode(part))
        return ids or [eot]

    def stream(
        self, prompts: Sequence[str], options: Options | None = None, stop: Sequence[str] = ()
    ) -> Iterator[Piece]:
        """Text as it comes: rows as in `Generation`, each closed by a piece with its `finish`."""
        options = replace(options or Options(), vocab_size=self.tokenizer.vocab_size)
        encoded = [self.encode(prompt) for prompt in prompts]
        if self.draft is None and options.sampling.rng == "rows":
            rows = Generation(self.model, self.block_size, encoded, options)
            yield from self._spell(rows, encoded, options, stop)
            return
        # nanoGPT draws sample after sample from one stream; a draft runs ahead of one row
        place = desk(next(self.model.parameters()).device)
        chance = source(options.sampling, [], place)
        numbered = [(p, n) for p in encoded for n in range(options.num_samples)]
        for row, (prompt, number) in enumerate(numbered):
            alone = replace(options, num_samples=1, first=options.first + number)
            for piece in self._spell(self._one(prompt, alone, chance), [prompt], alone, stop):
                yield replace(piece, row=row)

    def _one(self, prompt: list[int], options: Options, chance: Source) -> Generation | Speculation:
        if self.draft is not None:
            return Speculation(self.model, self.block_size, prompt, options, self.draft)
        return Generation(self.model, self.block_size, [prompt], options, chance)

    def complete(
        self, prompts: Sequence[str], options: Options | None = None, stop: Sequence[str] = ()
    ) -> list[Completion]:
        """Every row, whole: `num_samples` for each prompt, in order."""
        return self._gather(self.stream(prompts, options, stop))

    def _gather(self, pieces: Iterator[Piece]) -> list[Completion]:
        texts: dict[int, list[str]] = {}
        found: dict[int, Completion] = {}
        for piece in pieces:
            texts.setdefault(piece.row, []).append(piece.text)
            if piece.finish:
                found[piece.row] = Completion("".join(texts[piece.row]), piece.ids, piece.finish)
        return [found[row] for row in sorted(found)]

    def _spell(
        self,
        generation: Generation | Speculation,
        prompts: list[list[int]],
        options: Options,
        stop: Sequence[str],
    ) -> Iterator[Piece]:
        writers = [
            _Writer(row, Decoder(self.tokenizer, prompt), Stops(stop))
            for row, prompt in enumerate(p for p in prompts for _ in range(options.num_samples))
        ]
        for step in generation:
            for row, token in zip(step.rows, step.tokens, strict=True):
                piece = writers[row].push(token)
                if piece.finish:
                    generation.stop([row])
                elif row not in generation.live:
                    ended: Finish = "loop" if row in generation.looped else "stop"
                    piece = writers[row].close(ended, piece.text)
                if piece.text or piece.finish:
                    yield piece
        for row in list(generation.live):
            yield writers[row].close("length")


class _Writer:
    """One row on its way from tokens to text."""

    def __init__(self, row: int, decoder: Decoder, stops: Stops):
        self.row, self.decoder, self.stops = row, decoder, stops
        self.ids: list[int] = []

    def push(self, token: int) -> Piece:
        self.ids.append(token)
        text = self.stops.push(self.decoder.push(token))
        return Piece(self.row, text, self.ids, "stop" if self.stops.met else None)

    def close(self, finish: Finish, before: str = "") -> Piece:
        """The last piece, with what was kept back."""
        text = before + self.stops.push(self.decoder.flush())
        if self.stops.met:
            return Piece(self.row, text, self.ids, "stop")
        return Piece(self.row, text + self.stops.flush(), self.ids, finish)
