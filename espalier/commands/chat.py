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
    from espalier.data.chat import Message, Template
    from espalier.engine.chat import Chat
    from espalier.engine.generate import Options

LEAVE, FORGET = {"quit", "exit"}, "clear"


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

    Example: espalier chat runs/assistant
    Example: espalier chat runs/assistant --prompt "What is a tree?" --temperature 0

    Parameters
    ----------
    source
        A run (tuned on conversations, best), a checkpoint, a Hugging Face directory or id.
    prompt
        Say this and leave; given several times, each is the next message of one conversation.
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
        from espalier.data.chat import Message
        from espalier.engine.generate import Options
        from espalier.engine.sampling import Sampling

    loaded = api.load(source, tokenizer=tokenizer, device=device)
    session = opened(loaded, template_of(loaded, template))
    sampling = Sampling(temperature=temperature, top_k=top_k or None, seed=seed)
    options = Options(max_new_tokens, sampling=sampling)
    first = [] if system is None else [Message("system", system)]
    if prompt is not None:
        return {"messages": recite(session, first, prompt, options)}
    return {"messages": converse(session, first, options)}


def template_of(loaded: Loaded, name: str | None) -> Template:
    """As asked for, or the run's own, or plain."""
    from espalier.config import decode
    from espalier.data import chat as spelling
    from espalier.durable import read_json

    if name is not None:
        return spelling.named(name)
    kept = None if loaded.run is None else loaded.run.path / "chat.json"
    if kept is not None and kept.is_file():
        return decode(spelling.Template, read_json(kept), str(kept))
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


def recite(
    session: Chat, first: list[Message], prompts: list[str], options: Options
) -> list[dict[str, str]]:
    """One answer to each of the prompts, shown."""
    from espalier.data.chat import Message

    said = list(first)
    for text in prompts:
        said.append(Message("user", text))
        said.append(Message("assistant", speak(session, said, options)))
    return [message._asdict() for message in said]


def converse(session: Chat, first: list[Message], options: Options) -> list[dict[str, str]]:
    """Message after message; ^C ends an answer, and at the prompt the conversation."""
    from espalier.data.chat import Message

    console.say("a message, then Enter; clear begins anew, quit leaves")
    console.forgive()
    said, turn = list(first), 0
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            console.out("> ", end="")
            line = sys.stdin.readline()
            word = line.strip()
            if not line or word.lower() in LEAVE:
                break
            if word.lower() == FORGET:
                said = list(first)
                continue
            if not word:
                continue
            said.append(Message("user", word))
            turn += 1
            try:
                sampling = replace(options.sampling, seed=options.sampling.seed + turn)
                answer = speak(session, said, replace(options, sampling=sampling))
                said.append(Message("assistant", answer))
            except UserError as error:
                console.say(f"error: {error}")
                said.pop()
            except KeyboardInterrupt:
                console.out()
                said.pop()
    return [message._asdict() for message in said]


def speak(session: Chat, said: list[Message], options: Options) -> str:
    """An answer, shown while it grows."""
    found = ""
    for piece in session.answer(said, options):
        console.out(piece.text, end="")
        found += piece.text
    console.out()
    return found.strip()
