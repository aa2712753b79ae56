"""Fetching over a network that fails: tries again with growing pauses, a cache, known hashes."""

import hashlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar

from espalier.errors import MachineError, UserError

T = TypeVar("T")
FIRST_PAUSE = 1.0
TIMEOUT = 30.0  # seconds without a byte


@dataclass(frozen=True)
class Retry:
    """Try `attempts` times; pause `first` seconds, then twice as long each time."""

    attempts: int = 5
    first: float = field(default_factory=lambda: FIRST_PAUSE)
    sleep: Callable[[float], None] = time.sleep

    def call(self, action: Callable[[], T], lasting: tuple[type[Exception], ...] = ()) -> T:
        """The result of `action`; `lasting` errors are raised at once, others at the end."""
        for attempt in range(self.attempts):
            try:
                return action()
            except lasting:
                raise
            except Exception:
                if attempt + 1 == self.attempts:
                    raise
                self.sleep(self.first * 2**attempt)
        raise AssertionError("attempts is at least 1")


def cache() -> Path:
    """Where downloads are kept: $ESPALIER_CACHE, else the user's cache directory."""
    if chosen := os.environ.get("ESPALIER_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "espalier"


def fetch(url: str, name: str, sha256: str, way_out: str, retry: Retry | None = None) -> Path:
    """The file at `url`, from the cache where it already is; `name` is its path there.

    Raises MachineError, with `way_out` as advice, when it cannot be had or is not the known file.
    """
    kept = cache() / name
    if kept.is_file() and hash_file(kept) == sha256:
        return kept
    try:
        data = (retry or Retry()).call(lambda: _get(url), lasting=(UserError,))
    except (OSError, HTTPException, UserError) as error:
        raise MachineError(f"cannot download {url} ({_reason(error)}).\n{way_out}") from None
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise MachineError(
            f"{url} is not the known file: SHA-256 {found[:12]}, not {sha256[:12]}\n{way_out}"
        )
    keep(kept, data)
    return kept


def keep(file: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.{os.getpid()}.part")
        part.write_bytes(data)
        part.replace(file)
    except OSError as error:
        raise MachineError(f"cannot write {file}: {error.strerror}") from None


def hash_file(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404, 410):  # asking again will not help
            raise UserError(f"HTTP {error.code}") from None
        raise


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
