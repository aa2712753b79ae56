"""What a model answers: text after a prompt, until a stop string, an end of text or a length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from espalier.data.tokenizer.base import Tokenizer
from espalier.engine.generate import Generation, Options
from espalier.engine.sampling import Sampling
from espalier.engine.text import Decoder, Stops
from espalier.nn.gpt import GPT

GREEDY = Sampling(temperature=0)


@dataclass(frozen=True)
class Speaker:
    """A model that answers `rows` prompts at a time, each as if it were alone."""

    model: GPT
    tokenizer: Tokenizer
    block_size: int
    rows: int

    def fit(self, prompt: Sequence[int], new: int) -> list[int]:
        """The end of the prompt that leaves room for `new` tokens."""
        return list(prompt[-max(1, self.block_size - new) :])

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        new: int,
        stops: Sequence[str] = (),
        sampling: Sampling = GREEDY,
        between: Callable[[int], None] = lambda done: None,
    ) -> list[str]:
        """The text after each prompt, in order, without stop string and end of text.

        A prompt that leaves no room for `new` tokens loses its beginning. `between(prompts done)`
        may raise.
        """
        fitted = [self.fit(prompt, new) for prompt in prompts]
        order = sorted(range(len(fitted)), key=lambda i: -len(fitted[i]))
        found: dict[int, str] = {}
        for first in range(0, len(order), self.rows):
            group = order[first : first + self.rows]
            texts = self._batch([fitted[i] for i in group], new, stops, sampling)
            found |= dict(zip(group, texts, strict=True))
            between(len(group))
        return [found[i] for i in range(len(fitted))]

    def _batch(
        self, prompts: list[list[int]], new: int, stops: Sequence[str], sampling: Sampling
    ) -> list[str]:
        end = self.tokenizer.eot
        options = Options(
            new,
            sampling=sampling,
            stop_ids=() if end is None else (end,),
            vocab_size=self.tokenizer.vocab_size,
        )
        generation = Generation(self.model, self.block_size, prompts, options)
        heard = [(Decoder(self.tokenizer, prompt), Stops(stops)) for prompt in prompts]
        for step in generation:
            for row, token in zip(step.rows, step.tokens, strict=True):
                decoder, stop = heard[row]
                stop.push(decoder.push(token))
                if stop.met:
                    generation.stop([row])
        new_ids = [ids[len(p) :] for ids, p in zip(generation.history, prompts, strict=True)]
        texts = [self.tokenizer.decode([i for i in ids if i != end]) for ids in new_ids]
        return [before(text, stops) for text in texts]


def before(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string in it."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
