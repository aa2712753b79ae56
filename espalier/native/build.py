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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

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


class Kernel(Protocol):
    """A module beside this file: its .cpp has its name, its functions ask `ready`.

    `ready` is a plain global, so that compiled code guards on it instead of tracing a build.
    """

    __name__: str
    ready: bool


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
    try:
        built = cache() / f"{name}-{_key(source)}.so"
        if not built.is_file():
            _build(source, built)
        return ctypes.CDLL(str(built))
    except (OSError, subprocess.SubprocessError):
        return None


def prepare(*kernels: Kernel) -> bool:
    """Build or load kernels, and tell each whether it is ready. False where one cannot be had.

    One whose library has a function `pays` that answers 0 is no gain on this processor: not ready.
    """
    with ThreadPoolExecutor(len(kernels)) as pool:
        made = list(pool.map(library, [kernel.__name__.rpartition(".")[2] for kernel in kernels]))
    for kernel, built in zip(kernels, made, strict=True):
        kernel.ready = built is not None and (not hasattr(built, "pays") or bool(built.pays()))
    return None not in made


def function(kernel: str, name: str, *arguments: Any) -> Callable[..., int]:
    """A function of a kernel that is ready, for arguments of these types of ctypes."""
    built = library(kernel)
    assert built is not None
    call = getattr(built, name)
    call.argtypes = arguments
    return call  # type: ignore[no-any-return]


def _key(source: Path) -> str:
    """Source, headers, flags, compiler, processor features: whatever makes another library."""
    files = [source, *sorted(source.parent.glob("*.h"))]
    text = [*(file.read_bytes() for file in files), " ".join(FLAGS).encode(), *_machine()]
    return hashlib.sha256(b"\0".join(text)).hexdigest()[:16]


@functools.cache
def _machine() -> tuple[bytes, bytes]:
    """The compiler's version and the processor's features."""
    command = compiler()
    assert command is not None
    version = subprocess.run([command, "--version"], capture_output=True, check=True).stdout
    lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    return version, next((line for line in lines if line.startswith((b"flags", b"Features"))), b"")


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
