"""Where a result comes from: versions, machine, code and command line. Imports no torch."""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from espalier import device

PACKAGES = ("espalier", "torch", "numpy", "safetensors")


def environment(**more: Any) -> dict[str, Any]:
    """What a run notes about the place it was made in; `more` is added."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": device.cpu_name(),
        "cores": device.cores(),
        "commit": commit(),
        "argv": sys.argv,
    } | more


def commit() -> str | None:
    """The git commit of this code, with a + when files differ from it; None without a checkout."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    head = _git(root, "rev-parse", "HEAD")
    if not head:
        return None
    return head + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(root: Path, *words: str) -> str:
    try:
        found = subprocess.run(
            ["git", "-C", str(root), *words],
            capture_output=True,
            encoding="utf-8",
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
