"""Tokens of trackers and hubs from a `.env` beside the work, as `source .env` would set them."""

import os
import re
from pathlib import Path

TAKEN = ("HF_", "HUGGING_FACE_", "WANDB_")  # nothing that changes what a program does
LINE = re.compile(r"""(?:export\s+)?([A-Z_][A-Z0-9_]*)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s#]*))""")


def read(file: Path = Path(".env")) -> dict[str, str]:
    """What is taken of a file; nothing where there is none."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    found = {}
    for line in lines:
        match = LINE.match(line.strip())
        if match and match[1].startswith(TAKEN):
            found[match[1]] = next(one for one in match.groups()[1:] if one is not None)
    return found


def load(file: Path = Path(".env")) -> list[str]:
    """The names that were set; what the environment has already stays."""
    new = {name: value for name, value in read(file).items() if name not in os.environ}
    os.environ.update(new)
    return list(new)
