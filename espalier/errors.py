"""What can go wrong: by the user's input, or by the machine. Anything else is our bug."""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class UserError(ValueError):
    """The user's input cannot be used: what, where and what to do (exit code 2)."""


class ConfigError(UserError):
    """A recipe or an override cannot be used; the message starts with the dotted path."""


class MachineError(RuntimeError):
    """Disk, device, network or a missing extra (exit code 3)."""


def need(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra brings it."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise MachineError(f"this needs {package}: pip install 'espalier[{extra}]'") from None


def nearest(word: str, known: Iterable[str]) -> str:
    """A sentence that offers the closest of `known`, with a leading space; or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
