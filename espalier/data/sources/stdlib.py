"""The source text of the running Python's own standard library: real text on every machine."""

import platform
import sysconfig
from pathlib import Path

from espalier.data.sources.textfile import TextFiles
from espalier.errors import MachineError

LEFT_OUT = {
    "test",
    "tests",
    "idle_test",
    "idlelib",
    "encodings",  # mostly generated tables of characters
    "pydoc_data",  # one literal of 700 kB
    "site-packages",
    "dist-packages",
    "__pycache__",
}


def python_stdlib() -> TextFiles:
    """Its .py files in order of their names, without tests, idlelib and what was installed later.

    Character tables, the pages of pydoc and generated build settings (_sysconfigdata*, which differ
    between machines) are left out too.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = [
        (file.relative_to(root).as_posix(), file)
        for file in root.rglob("*.py")
        if not LEFT_OUT & set(file.relative_to(root).parts[:-1])
        and not file.name.startswith("_sysconfigdata")
    ]
    if sum(file.stat().st_size for _, file in found) < 1_000_000:
        raise MachineError(
            f"this Python keeps no source text of its standard library in {root} "
            "(a stripped or frozen installation); prepare a text of your own: espalier prepare FILE"
        )
    facts = (("kind", "python-stdlib"), ("name", f"Python {platform.python_version()}"))
    return TextFiles(tuple(file for _, file in sorted(found)), root, facts)
