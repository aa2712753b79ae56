"""A model in conversation: messages in, an answer out, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from espalier.data.chat import ANSWERS, Message, Speaker
from espalier.engine.generate import Generation, Options
from espalier.engine.text import Piece, Session
from espalier.errors import UserError
from espalier.nn.gpt import GPT


class Chat(Session):
    """A session whose prompts are conversations, written with the template of `speaker`."""

    def __init__(self, model: GPT, speaker: Speaker, block_size: int):
        super().__init__(model, speaker.tokenizer, block_size)
        self.speaker = speaker

    def answer(self, messages: Sequence[Message], options: Options) -> Iterator[Piece]:
        """The answer to a conversation, which must end with somebody else's message.

        Where the model cannot see all of it, the oldest messages are left out, but for a leading
        one of the system's. UserError where the last alone is too long.
        """
        ids = self._fitting(messages, options.max_new_tokens)
        stops = self.speaker.stop_ids()
        own = replace(options, vocab_size=self.tokenizer.vocab_size, stop_ids=stops)
        generation = Generation(self.model, self.block_size, [ids], own)
        for piece in self._spell(generation, [ids], own, self.speaker.stop_texts()):
            yield self._plain(piece)

    def _fitting(self, messages: Sequence[Message], wanted: int) -> list[int]:
        room = self.block_size - min(wanted, self.block_size // 2)
        head = list(messages[:1]) if messages[0].role == "system" else []
        begins = [i for i in range(len(head), len(messages)) if messages[i].role != ANSWERS]
        for first in begins:
            ids = self.speaker.prompt([*head, *messages[first:]])
            if len(ids) <= room:
                return ids
        raise UserError(
            f"this message has {len(ids)} tokens with the template; the model reads "
            f"{self.block_size} at once and is to add {wanted}: shorten it, or --max-new-tokens"
        )

    def _plain(self, piece: Piece) -> Piece:
        """Without the token that ended the answer, which is no part of it."""
        if piece.finish != "stop" or not piece.ids:
            return piece
        last = piece.ids[-1]
        text = self.tokenizer.decode([last]) if last in self.speaker.stop_ids() else ""
        return replace(piece, text=piece.text.removesuffix(text) if text else piece.text)
