"""What a pruned model makes of twelve prompts, the same for every model and level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from espalier.data.tokenizer.base import Tokenizer
from espalier.engine.generate import Options
from espalier.engine.sampling import Sampling
from espalier.engine.text import Session
from espalier.errors import UserError
from espalier.nn.gpt import GPT
from espalier.tree import read_yaml

PROMPTS = Path(__file__).with_name("prompts.yaml")


def write(model: GPT, tokenizer: Tokenizer, block_size: int) -> list[dict[str, Any]]:
    """One record for each prompt; `why_not` where the tokenizer cannot spell it."""
    plan = read_yaml(PROMPTS).tree
    sampling = Sampling(**plan["sampling"])
    session = Session(model, tokenizer, block_size)
    found = []
    for prompt in plan["prompts"]:
        record = {key: prompt[key] for key in ("id", "category")} | {"prompt": prompt["text"]}
        try:
            options = Options(prompt["max_new_tokens"], sampling=sampling)
            record["text"] = session.complete([prompt["text"]], options)[0].text
        except UserError as error:
            record["why_not"] = str(error)
        found.append(record)
    return found
