"""`espalier chat RUN`: a conversation with a model."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier import console
from espalier.errors import UserError
from espalier.starting import uncollected

if TYPE_CHECKING:
    from espalier.api import Loaded
    from espalier.data.chat import Template
    from espalier.data.images import Views
    from espalier.engine.chat import Chat
    from espalier.engine.generate import Options

LEAVE, FORGET, SHOW = {"quit", "exit"}, "clear", "/image"


def chat(
    source: Path,
    /,
    *,
    prompt: list[str] | None = None,
    system: str | None = None,
    template: str | None = None,
    tokenizer: str | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.7,
    top_k: int = 50,
    seed: int = 1337,
    device: str | None = None,
) -> dict[str, Any]:
    """Talk with a model: a line is a message; quit or exit leaves, clear begins anew.

    To a model that reads images, /image FILE shows one with the next message.

    Example: espalier chat runs/assistant
    Example: espalier chat runs/assistant --prompt "What is a tree?" --temperature 0
    Example: espalier chat runs/reader --prompt "/image page.png" --prompt "Free OCR."

    Parameters
    ----------
    source
        A run (tuned on conversations, best), a checkpoint, a Hugging Face directory or id.
    prompt
        Say this and leave; given several times, each is the next line of one conversation.
    system
        A first message of the system's.
    template
        How messages are written: chatml, plain, or a .yaml; left out, as in the run's corpus.
    tokenizer
        In place of the one that came along: a name, a tokenizer.json or a corpus.
    max_new_tokens
        The longest answer.
    temperature
        0 takes the likeliest token each time.
    top_k
        Keep the k likeliest tokens; 0 keeps all.
    seed
        The same seed and messages give the same answers.
    device
        cpu, cuda, cuda:1, mps; left out, the best there is.
    """
    with uncollected():
        from espalier import api
        from espalier.engine.generate import Options
        from espalier.engine.sampling import Sampling

    loaded = api.load(source, tokenizer=tokenizer, device=device)
    talk = Talk(loaded, opened(loaded, template_of(loaded, template)), system)
    sampling = Sampling(temperature=temperature, top_k=top_k or None, seed=seed)
    options = Options(max_new_tokens, sampling=sampling)
    if prompt is None:
        converse(talk, options)
    for line in prompt or ():
        talk.take(line, options)
    return {"messages": talk.told}


def template_of(loaded: Loaded, name: str | None) -> Template:
    """As asked for, or the run's own, or plain."""
    from espalier.data import chat as spelling

    if name is not None:
        return spelling.named(name)
    if loaded.template is not None:
        return loaded.template
    console.warn("it was not tuned on conversations: they are written plainly (--template plain)")
    return spelling.named("plain")


def opened(loaded: Loaded, template: Template) -> Chat:
    """UserError where the tokenizer lacks the template's special tokens."""
    from espalier.data.chat import Speaker
    from espalier.engine.chat import Chat

    known = getattr(loaded.tokenizer, "special", {})
    missing = [token for token in template.special if token not in known]
    if missing:
        raise UserError(
            f"the tokenizer has no {', '.join(missing)}: take --template plain, or tune the model "
            "on conversations first (espalier prepare CHATS.jsonl --chat chatml)"
        )
    return Chat(loaded.model, Speaker(template, loaded.tokenizer), loaded.config.model.block_size)


class Talk:
    """A conversation so far, and the images that it shows."""

    def __init__(self, loaded: Loaded, session: Chat, system: str | None):
        self.loaded, self.session, self.system = loaded, session, system
        self.forget()

    def forget(self) -> None:
        """Begin anew, with what the system says."""
        from espalier.data.chat import Message

        self.said = [] if self.system is None else [Message("system", self.system)]
        self.told: list[dict[str, Any]] = [message._asdict() for message in self.said]
        self.views: list[Views] = []
        self.waiting: list[str] = []

    def take(self, line: str, options: Options) -> None:
        """A message, or an image for the next."""
        word, _, file = line.partition(" ")
        if word == SHOW:
            self.show(file.strip())
        else:
            self.say(line, options)

    def show(self, file: str) -> None:
        """Keep an image for the next message; UserError for what cannot be read."""
        if self.loaded.model.trunk.front is None:
            raise UserError("this model reads no images: it has no model.front")
        if not file:
            raise UserError(f"say which image: {SHOW} FILE")
        self.views.append(self.loaded.views(file))
        self.waiting.append(file)

    def say(self, text: str, options: Options) -> None:
        """A message and its answer, shown while it grows; both are forgotten where that fails."""
        from espalier.data.chat import ANSWERS, Message, Shown

        files, self.waiting = self.waiting, []
        new = map(Shown, range(len(self.views) - len(files), len(self.views)))
        said = [*self.said, Message("user", (*new, f"\n{text}") if files else text)]
        answer = ""
        for piece in self.session.answer(said, options, self.views):
            console.out(piece.text, end="")
            answer += piece.text
        console.out()
        self.said = [*said, Message(ANSWERS, answer.strip())]
        shown = {"images": files} if files else {}
        self.told += [{"role": "user", "content": text, **shown}, self.said[-1]._asdict()]


def converse(talk: Talk, options: Options) -> None:
    """Message after message; ^C ends an answer, and at the prompt the conversation."""
    shows = "" if talk.loaded.model.trunk.front is None else f"{SHOW} FILE shows an image, "
    console.say(f"a message, then Enter; {shows}clear begins anew, quit leaves")
    console.forgive()
    turn = 0
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            console.out("> ", end="")
            line = sys.stdin.readline()
            word = line.strip()
            if not line or word.lower() in LEAVE:
                break
            if word.lower() == FORGET:
                talk.forget()
                continue
            if not word:
                continue
            turn += 1
            try:
                sampling = replace(options.sampling, seed=options.sampling.seed + turn)
                talk.take(word, replace(options, sampling=sampling))
            except UserError as error:
                console.say(f"error: {error}")
            except KeyboardInterrupt:
                console.out()
