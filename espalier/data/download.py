"""Fetching over a network that fails: tries again with growing pauses, a cache, known hashes."""

import errno
import hashlib
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from itertools import count
from pathlib import Path
from typing import TypeVar

from espalier.durable import digest, write_whole
from espalier.errors import MachineError, UserError

T = TypeVar("T")
FIRST_PAUSE = 1.0
FEW = 2  # attempts where there is no way to the other side
TIMEOUT = 30.0  # seconds without a byte


@dataclass(frozen=True)
class Retry:
    """Try `attempts` times; pause `first` seconds, then twice as long each time.

    `note` hears of every pause. Where nobody can be reached at all, FEW attempts are enough.
    """

    attempts: int = 5
    first: float = field(default_factory=lambda: FIRST_PAUSE)
    sleep: Callable[[float], None] = time.sleep
    note: Callable[[str], None] = lambda text: None

    def call(
        self, what: str, action: Callable[[], T], lasting: tuple[type[Exception], ...] = ()
    ) -> T:
        """The result of `action`; `lasting` errors are raised at once, others at the end."""
        for failures in count(1):
            try:
                return action()
            except lasting:
                raise
            except Exception as error:
                if not self.again(failures, what, error):
                    raise
        raise AssertionError("count does not end")

    def again(self, failures: int, what: str, error: Exception) -> bool:
        """Pause after so many failures in a row; False when that was the last attempt."""
        most = min(self.attempts, FEW) if unreachable(error) else self.attempts
        if failures >= most:
            return False
        pause = self.first * 2 ** (failures - 1)
        self.note(f"{what}: {reason(error)}; attempt {failures + 1} of {most} in {pause:g} s")
        self.sleep(pause)
        return True


def unreachable(error: BaseException) -> bool:
    """Whether there is no way there: no such name, no route, nobody who listens or answers."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    kinds = (socket.gaierror, ConnectionRefusedError, TimeoutError)
    nowhere = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
    return isinstance(error, kinds) or (isinstance(error, OSError) and error.errno in nowhere)


def reason(error: Exception) -> str:
    """One line."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return (str(error) or type(error).__name__).split("\n", maxsplit=1)[0].rstrip(".")


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
    if kept.is_file() and digest(kept) == sha256:
        return kept
    retry = retry or Retry()
    retry.note(f"downloading {url}")
    try:
        data = retry.call("download", lambda: _get(url), lasting=(UserError,))
    except (OSError, HTTPException, UserError) as error:
        raise MachineError(f"cannot download {url} ({reason(error)}).\n{way_out}") from None
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
        write_whole(file, data)
    except OSError as error:
        raise MachineError(f"cannot write {file}: {error.strerror}") from None


def _get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404, 410):  # asking again will not help
            raise UserError(f"HTTP {error.code}") from None
        raise
