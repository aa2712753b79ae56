"""Files that survive a crash: replaced whole or not at all, brought to the disk, hashed."""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from espalier.errors import UserError


def write_json(file: Path, value: Any) -> None:
    """Replace a JSON file, whole or not at all."""
    text = json.dumps(finite(value), ensure_ascii=False, indent=1, allow_nan=False)
    write_whole(file, text + "\n")


def read_json(file: Path) -> Any:
    """What a JSON file holds; UserError where it cannot be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}") from None


def write_whole(file: Path, content: str | bytes) -> None:
    """Replace a file by another, so that a reader finds the old one or the new."""
    with replacing(file) as working:
        working.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A place to write what replaces a file then; it is as it was where that fails."""
    working = file.with_name(f"{file.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        yield working
        sync(working)
        rename(working, file)
        sync(file.parent)
    except OSError as error:
        error.filename = str(file)  # a write that fails does not say where
        raise
    finally:
        working.unlink(missing_ok=True)


def write_asked(file: Path, text: str | bytes) -> None:
    """Replace a file at a place that somebody named: UserError where no file can stand there."""
    if file.is_dir():
        raise UserError(f"{file} is a directory: name a file")
    if not file.parent.is_dir():
        raise UserError(f"cannot write {file}: {file.parent} is no directory")
    write_whole(file, text)


def digest(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(place: Path) -> None:
    """Bring a file, or the names in a directory, to the disk."""
    if place.is_dir() and os.name == "nt":  # directories cannot be opened there
        return
    handle = os.open(place, os.O_RDONLY if place.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rename(source: Path, target: Path) -> None:
    """Rename, with patience for a virus scanner that holds a file open."""
    for pause in (0.05, 0.2, 0.8, None):
        try:
            source.replace(target)
        except PermissionError:
            if pause is None or os.name != "nt":
                raise
            time.sleep(pause)
        else:
            return


def require_room(folder: Path, size: int) -> None:
    """OSError (ENOSPC) unless the disk has `size` bytes and a fifth."""
    if shutil.disk_usage(folder).free < size * 1.2:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({size / 1e6:.0f} MB needed)")


def finite(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
