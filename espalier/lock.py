"""One writer per directory: a lock that names its owner and outlives no process.

Nobody can tell from here whether a process lives on another machine. Whoever can (the queue of a
cluster, which gives a piece of work to one process at a time and ends the process when it takes the
work away) says so by a lease, the same for everyone who gets that work: of two owners of one lease
on different machines the former one is gone.
"""

import contextlib
import json
import os
import platform
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from espalier.errors import MachineError, UserError

LEASE = "ESPALIER_LEASE"  # in the environment of a process that works under one


@contextlib.contextmanager
def hold(file: Path) -> Iterator[None]:
    """Hold `file` as a lock. UserError names a living owner; a dead one's lock is taken over."""
    mine = json.dumps(_me())
    aside = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
    try:
        aside.write_text(mine, encoding="utf-8")
        while not _take(aside, file):
            _evict(file)
    except OSError as error:
        raise MachineError(f"cannot write {file.parent}: {error.strerror}") from None
    finally:
        aside.unlink(missing_ok=True)
    try:
        yield
    finally:
        if _read(file) == mine:
            file.unlink()


def owner_of(file: Path, lease: str = "") -> dict[str, Any] | None:
    """Who holds the lock now; None when nobody living does, as far as a holder of `lease` knows."""
    owner = _parse(_read(file))
    return owner if owner is not None and _alive(owner, lease) else None


def _take(aside: Path, file: Path) -> bool:
    """Appear under the lock's name, whole and at once, unless somebody stands there."""
    try:
        os.link(aside, file)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            with file.open("x", encoding="utf-8") as stream:
                stream.write(aside.read_text(encoding="utf-8"))
        except FileExistsError:
            return False
    return True


def _evict(file: Path) -> None:
    """Remove a dead owner's lock, or refuse. Of two who try, one finds the file already gone."""
    text = _read(file)
    if text is None:
        return
    owner = _parse(text)
    if owner is not None and _alive(owner, os.environ.get(LEASE, "")):
        raise UserError(
            f"{file.parent} is in use by process {owner['pid']} on {owner['host']}. "
            f"Wait for it, stop it, or (if it is long gone) delete {file}"
        )
    grave = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        file.rename(grave)
        if _read(grave) != text:  # somebody took it over between the reading and the renaming
            _take(grave, file)
        grave.unlink()


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _parse(text: str | None) -> dict[str, Any] | None:
    try:
        owner = json.loads(text or "")
        return owner if {"pid", "host", "boot", "start"} <= set(owner) else None
    except (ValueError, TypeError):
        return None


def _me() -> dict[str, Any]:
    pid = os.getpid()
    mine = {"pid": pid, "host": platform.node(), "boot": _boot(), "start": _start(pid)}
    lease = os.environ.get(LEASE)
    return mine | {"lease": lease} if lease else mine


def _alive(owner: dict[str, Any], lease: str) -> bool:
    """Whether the owner may still live: the same boot, and a process of that id and age."""
    if owner["host"] != platform.node():
        return not lease or owner.get("lease") != lease
    if owner["boot"] != _boot():
        return False
    if _start(os.getpid()) is not None:
        return bool(_start(owner["pid"]) == owner["start"])
    if os.name != "posix":
        return True
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _boot() -> str:
    place = Path("/proc/sys/kernel/random/boot_id")
    return place.read_text(encoding="ascii").strip() if place.exists() else ""


def _start(pid: int) -> str | None:
    """When a process began, in ticks since boot; None where it is gone or nobody says."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
