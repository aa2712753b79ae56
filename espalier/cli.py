"""`espalier VERB …`: finds the verb's file, calls it, and turns every outcome into an exit code.

0 done; 1 a bug of ours; 2 the user's input; 3 the machine; 130 interrupted. A verb is a function in
`espalier/commands/VERB.py` and is imported when it is used; `--help` reads the syntax trees.
"""

import ast
import errno
import json
import math
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError, Parameter, Token, convert

from espalier import console, dotenv
from espalier.errors import MachineError, UserError

COMMANDS = Path(__file__).parent / "commands"
BUG, INPUT, MACHINE, INTERRUPTED = 1, 2, 3, 130

# What a disk or a system refuses, wherever it comes up; what is missing may be our own mistake.
REFUSED = {
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP), INPUT),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), MACHINE),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EIO), MACHINE),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE, errno.ENOMEM), MACHINE),
}
# torch's words; the second for sizes that no machine has.
NO_MEMORY = ("can't allocate memory", "Storage size calculation overflowed")


# Turns that a thread of torch's waits for work before it sleeps. libgomp's own 300,000 stall steps
# where another program wants a core too; this costs nothing alone (benchmarks/busy.py).
SPIN = "1000"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
    dotenv.load()
    console.open_missing()
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in tokens
    console.want_json(as_json)
    code, outcome = attempt([token for token in tokens if token != "--json"])
    if as_json and outcome is not None:
        try:
            sys.stdout.write(json.dumps(plain(outcome), allow_nan=False) + "\n")
            sys.stdout.flush()
        except OSError as error:
            console.unheard()
            return code or failed(MACHINE, f"error: stdout: {error.strerror}")[0]
    return code


def attempt(tokens: list[str]) -> tuple[int, Any]:
    """Exit code, and what --json prints (None when the command has shown help)."""
    try:
        return 0, call(tokens)
    except (UserError, CycloptsError) as error:
        return failed(INPUT, f"error: {error}")
    except MachineError as error:
        return failed(MACHINE, f"error: {error}")
    except KeyboardInterrupt:
        return failed(INTERRUPTED, "interrupted")
    except SystemExit as left:  # a verb that was interrupted and has said so
        code = left.code if isinstance(left.code, int) else INTERRUPTED
        return code, {"error": "interrupted", "exit": code}
    except BrokenPipeError:  # the reader has gone (`espalier parts | head`)
        console.unheard()
        return 0, None
    except Exception as error:
        if found := refused(error):
            return failed(*found)
        return failed(BUG, f"bug: {type(error).__name__}: {error}\ntraceback in {keep_traceback()}")


def call(tokens: list[str]) -> Any:
    for token in tokens:
        if re.search("[\ud800-\udfff]", token):  # bytes that Python could not decode
            raise UserError(f"{token!r} is not UTF-8: rename it, or set LC_ALL=C.UTF-8")
    app = make_app()
    command, bound, _ = app.parse_args(tokens, print_error=False, exit_on_error=False)
    result = command(*bound.args, **bound.kwargs)
    shown = command in (app.help_print, app.version_print)
    return None if shown else result or {}


def converted(kind: Any, tokens: Sequence[Token]) -> Any:
    """As cyclopts does, but where it would round 1.5 to a whole number it is an error."""
    for token in tokens:
        if kind in (int, int | None) and re.fullmatch(r"[-+]?\d*\.\d*[1-9]\d*", token.value):
            raise ValueError(f"{token.value} is not a whole number")
    return convert(kind, tokens)


def failed(code: int, text: str) -> tuple[int, dict[str, Any]]:
    console.say(text)
    return code, {"error": text.removeprefix("error: "), "exit": code}


def refused(error: Exception) -> tuple[int, str] | None:
    """Exit code and words where disk, system or memory refused; None for any other error."""
    if isinstance(error, OSError) and error.errno in REFUSED:
        place = "" if error.filename is None else f"{error.filename}: "
        return REFUSED[error.errno], f"error: {place}{error.strerror}"
    if str(error).startswith("Symlink loop"):  # Path.resolve, before Python 3.13
        return INPUT, f"error: {error}"
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if memory or any(sign in str(error) for sign in NO_MEMORY):
        return MACHINE, (
            "error: not enough memory. Take a smaller model, block_size or batch_size; "
            "`espalier check RECIPE` says what is needed"
        )
    return None


def keep_traceback() -> Path:
    handle, name = tempfile.mkstemp(prefix="espalier-", suffix=".txt")
    with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{' '.join(sys.argv)}\n\n{traceback.format_exc()}")
    return Path(name)


def make_app() -> App:
    app = App(
        name="espalier",
        help="Grow, prune and compare small GPT-style language models.",
        help_format="plaintext",
        help_epilogue="Every verb takes --help, and --json for one JSON object on stdout.",
        version=version,
        default_parameter=Parameter(converter=converted),
    )
    for file in sorted(COMMANDS.glob("[a-z]*.py")):
        function = f"espalier.commands.{file.stem}:{file.stem}"
        app.command(function, name=file.stem.rstrip("_"), help=description(file))
    app.register_install_completion_command()
    return app


def description(file: Path) -> str:
    """What the docstring of a verb's function says before it lists the arguments."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    verb = next((node for node in functions if node.name == file.stem), None)
    text = (verb and ast.get_docstring(verb)) or ""
    return re.split(r"\n(?:Args:|Parameters\n)", text, maxsplit=1)[0].rstrip()


def version() -> str:
    from importlib.metadata import version as installed

    return installed("espalier")


def plain(value: Any) -> Any:
    """JSON knows no NaN, path or tuple key: the nearest thing it knows."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, type(None))) else str(value)
