"""A model in conversation: messages in, an answer out, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from espalier.data.chat import ANSWERS, Message, Speaker
from espalier.data.illustrated import IMAGE
from espalier.data.images import placed
from espalier.engine.generate import Generation, Options
from espalier.engine.text import Completion, Piece, Session
from espalier.errors import UserError
from espalier.nn.gpt import GPT
from espalier.nn.sight import Sight
from espalier.nn.state import Image

Images = Sequence[Image] | Mapping[int, Image]


class Asked(NamedTuple):
    """A conversation for the model."""

    ids: list[int]
    sight: Sight | None
    """what it sees, a row of its own"""


class Chat(Session):
    """A session whose prompts are conversations, written with the template of `speaker`.

    `Shown(n)` in a message is `images[n]`.
    """

    def __init__(self, model: GPT, speaker: Speaker, block_size: int):
        super().__init__(model, speaker.tokenizer, block_size)
        self.speaker = speaker
        special: Mapping[str, int] = getattr(speaker.tokenizer, "special", {})
        self.image_id = special.get(IMAGE)

    def asked(self, messages: Sequence[Message], images: Images = ()) -> Asked:
        """The conversation so far, and the beginning of an answer."""
        spelled = self.speaker.asked(messages)
        if not spelled.places:
            return Asked(spelled.ids, None)
        front = self.model.trunk.front
        if front is None:
            raise UserError("this model reads no images: it has no model.front")
        shown = [images[number] for number in spelled.images]
        counts = [front.count(image) for image in shown]
        ids, slots = placed(spelled.ids, spelled.places, counts, self.image_id or 0)
        return Asked(ids, Sight([shown], torch.tensor([slots]), torch.arange(len(ids))[None]))

    def answers(
        self, asked: Sequence[Asked], options: Options, stop: Sequence[str] = ()
    ) -> list[Completion]:
        """To conversations side by side, without what ends them: tokens, or a text of `stop`."""
        prompts = [one.ids for one in asked]
        generation = self._generation(asked, options)
        stops = [*self.speaker.stop_texts(), *stop]
        found = self._gather(self._spell(generation, prompts, generation.options, stops))
        return [replace(one, text=self._bare(one.text, one.ids)) for one in found]

    def _generation(self, asked: Sequence[Asked], options: Options) -> Generation:
        own = replace(
            options,
            vocab_size=self.tokenizer.vocab_size,
            stop_ids=self.speaker.stop_ids(),
            never=() if self.image_id is None else (self.image_id,),
        )
        prompts, sights = [one.ids for one in asked], [one.sight for one in asked]
        return Generation(self.model, self.block_size, prompts, own, sights=sights)

    def answer(
        self, messages: Sequence[Message], options: Options, images: Images = ()
    ) -> Iterator[Piece]:
        """The answer to a conversation, which must end with somebody else's message.

        Where the model cannot see all of it, the oldest messages are left out, but for a leading
        one of the system's. UserError where the last alone is too long.
        """
        asked = self._fitting(messages, options.max_new_tokens, images)
        generation, stops = self._generation([asked], options), self.speaker.stop_texts()
        for piece in self._spell(generation, [asked.ids], generation.options, stops):
            yield self._plain(piece)

    def _fitting(self, messages: Sequence[Message], wanted: int, images: Images) -> Asked:
        room = self.block_size - min(wanted, self.block_size // 2)
        head = list(messages[:1]) if messages[0].role == "system" else []
        begins = [i for i in range(len(head), len(messages)) if messages[i].role != ANSWERS]
        for first in begins:
            asked = self.asked([*head, *messages[first:]], images)
            if len(asked.ids) <= room:
                return asked
        raise UserError(
            f"this message has {len(asked.ids)} tokens with the template; the model reads "
            f"{self.block_size} at once and is to add {wanted}: shorten it, or --max-new-tokens"
        )

    def _plain(self, piece: Piece) -> Piece:
        """Without the token that ended the answer, which is no part of it."""
        if piece.finish != "stop" or not piece.ids:
            return piece
        return replace(piece, text=self._bare(piece.text, piece.ids))

    def _bare(self, text: str, ids: Sequence[int]) -> str:
        if not ids or ids[-1] not in self.speaker.stop_ids():
            return text
        end = self.tokenizer.decode(ids[-1:])
        return text.removesuffix(end) if end else text
