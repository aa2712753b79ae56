"""Build a kernel with the system's compiler on first use, and keep it.

ESPALIER_NATIVE=0 turns native kernels off; ESPALIER_CACHE moves the folder they are kept in.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

FLAGS = (
    "-O3",
    "-march=native",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-shared",
    "-fPIC",
)
_lock = threading.Lock()


def compiler() -> str | None:
    """The C++ compiler: $CXX, or the first of c++, g++ and clang++ there is."""
    wanted = os.environ.get("CXX")
    found = [shutil.which(name) for name in ([wanted] if wanted else ["c++", "g++", "clang++"])]
    return next((path for path in found if path), None)


def cache() -> Path:
    """Where built kernels are kept."""
    given = os.environ.get("ESPALIER_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(home) / "espalier"


@functools.cache
def why_not() -> str | None:
    """Why native kernels cannot be used here; None when they can."""
    if os.environ.get("ESPALIER_NATIVE") == "0":
        return "turned off by ESPALIER_NATIVE=0"
    if platform.system() != "Linux":
        return f"not tried on {platform.system()}"
    if compiler() is None:
        return "no C++ compiler (install g++ or clang++, or set CXX)"
    return None


@functools.cache
def library(name: str) -> ctypes.CDLL | None:
    """The kernel `name` (a .cpp beside this file), built if need be; None where there is none."""
    if why_not() is not None:
        return None
    source = Path(__file__).parent / f"{name}.cpp"
    with _lock:
        try:
            built = cache() / f"{name}-{_key(source)}.so"
            if not built.is_file():
                _build(source, built)
            return ctypes.CDLL(str(built))
        except (OSError, subprocess.SubprocessError):
            return None


def _key(source: Path) -> str:
    """Source, flags, compiler and processor features: whatever makes another library."""
    command = compiler()
    assert command is not None
    version = subprocess.run([command, "--version"], capture_output=True, check=True).stdout
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    features = next(
        (line for line in cpu.splitlines() if line.startswith(("flags", "Features"))), ""
    )
    shared = source.with_name("number.h").read_bytes()
    text = [source.read_bytes(), shared, " ".join(FLAGS).encode(), version, features.encode()]
    return hashlib.sha256(b"\0".join(text)).hexdigest()[:16]


def _build(source: Path, target: Path) -> None:
    """Compile beside the target and rename, so that two processes may build at once."""
    command = compiler()
    assert command is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        subprocess.run(
            [command, *FLAGS, str(source), "-o", str(made)],
            capture_output=True,
            check=True,
            timeout=300,
        )
        made.replace(target)
