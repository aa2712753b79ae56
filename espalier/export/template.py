"""A chat template of ours in Jinja, as transformers and llama.cpp read them."""

import re

from espalier.data.chat import ANSWERS, Speaker, Template

JOINED = (
    "{%- if messages|length > 1 and messages[0]['role'] == 'system' -%}"
    "{%- set said = messages[0]['content'] + '\\n\\n' + messages[1]['content'] -%}"
    "{%- set messages = [{'role': messages[1]['role'], 'content': said}] + messages[2:] -%}"
    "{%- endif -%}"
)
ROLES = {"{role}": "message['role']", "{Role}": "message['role']|capitalize"}


def jinja(template: Template) -> str:
    """What writes the text of a conversation so far and, if asked, the beginning of an answer.

    There, unlike here, what people say is read as a special token where it spells one.
    """
    said = f"{_filled(template.before)} ~ message['content'] ~ {_filled(template.after)}"
    return (
        f"{JOINED if template.system == 'joined' else ''}"
        f"{{{{- {template.begin!a} -}}}}"
        f"{{%- for message in messages -%}}{{{{- {said} -}}}}{{%- endfor -%}}"
        f"{{%- if add_generation_prompt -%}}"
        f"{{{{- {template.filled(template.before, ANSWERS)!a} -}}}}{{%- endif -%}}"
    )


def endings(speaker: Speaker) -> list[str]:
    """What other programs have to be told: a text that ends an answer, where no token does."""
    return [f"an answer ends before {text!r}: stop there" for text in speaker.stop_texts()]


def _filled(text: str) -> str:
    """An expression for a text in which roles stand."""
    parts = re.split(r"(\{[rR]ole\})", text)
    return " ~ ".join(ROLES.get(part, ascii(part)) for part in parts if part) or "''"
