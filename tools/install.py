"""Install this checkout into a virtual environment, with the build of torch that suits the machine.

    python3 tools/install.py --extras test

Called by the Makefile; standard library only, safe to run again. Without an NVIDIA driver, on
Linux, a CPU build of torch is taken: from a wheel folder that pip knows (its `find-links`, or
--wheels), else from PyTorch's own CPU index, which is not contacted where a local wheel serves.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class Choice:
    """The torch that pip is asked for, and why."""

    requirement: str
    reason: str
    options: tuple[str, ...] = ()
    index: str = ""  # torch is taken from this index alone, before everything else


def main() -> int:
    options = parse_arguments()
    if sys.version_info < (3, 11):  # noqa: UP036 - a newcomer's python3 may be older
        return fail(f"this is Python {platform.python_version()}, 3.11 or newer is needed: PYTHON=")
    try:
        python = make_environment(options.venv)
        choice = choose_torch(python, options)
        say(f"installing espalier[{options.extras}] with {choice.requirement}: {choice.reason}")
        install(python, choice, options.extras)
    except subprocess.CalledProcessError as error:
        return fail(f"`{' '.join(map(str, error.cmd))}` failed; its own words stand above")
    say(f"ready: {options.venv}/bin/espalier with torch {installed_torch(python)}")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Install this checkout into a virtual environment."
    )
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="made when missing")
    parser.add_argument("--extras", default="", help="extras of espalier, comma-separated")
    parser.add_argument("--torch", default="", help="requirement for torch, instead of choosing")
    parser.add_argument("--index", default="", help="index to take torch from")
    parser.add_argument("--wheels", default="", help="a folder with wheels, tried before any index")
    return parser.parse_args()


def make_environment(venv: Path) -> Path:
    """The environment's Python; the environment is made when there is none that works."""
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if python.exists() and succeeds([str(python), "-m", "pip", "--version"]):
        return python
    say(f"making {venv} with Python {platform.python_version()}")
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    except subprocess.CalledProcessError:
        say("on Debian and Ubuntu this needs: apt install python3-venv")
        raise
    return python


def choose_torch(python: Path, options: argparse.Namespace) -> Choice:
    """The caller's wish, else what is there, else a CPU build unless an NVIDIA driver is here."""
    links = ("--find-links", options.wheels) if options.wheels else ()
    wish = options.torch or torch_range()
    if options.index:
        return Choice(wish, f"from {options.index}", links, options.index)
    if options.torch:
        return Choice(wish, "as asked", links)
    present = installed_torch(python)
    if present and within(present, wish):
        return Choice(wish, f"torch {present} is already there", links)
    if sys.platform != "linux":
        return Choice(wish, "the package index has the right build for this system", links)
    if has_nvidia_driver():
        return Choice(wish, "an NVIDIA driver is here, so the CUDA build (several GB)", links)
    return choose_cpu_build(python, wish, links)


def choose_cpu_build(python: Path, wish: str, links: tuple[str, ...]) -> Choice:
    local = local_wheel(python, wish, links)
    if local:
        return Choice(f"torch=={local}", "a local wheel", links)
    index = os.environ.get("ESPALIER_TORCH_CPU_INDEX", CPU_INDEX)
    try:
        version = newest_cpu_build(read_page(f"{index}/torch/"), wish)
    except (OSError, ValueError) as error:
        say(f"warning: no CPU build of torch from {index}: {error}")
        say("warning: the plain index's build carries CUDA, several GB (else: make WHEELS=DIR ...)")
        return Choice(wish, "the plain index", links)
    reason = f"the CPU build from {index} (about 200 MB)"
    return Choice(f"torch=={version}", reason, ("--extra-index-url", index))


def torch_range() -> str:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return next(line for line in map(str, project["dependencies"]) if line.startswith("torch"))


def within(version: str, wish: str) -> bool:
    """Whether `version` lies in a range written as torch>=A,<B."""
    low, high = (numbers(bound) for bound in re.findall(r"[>=<]+([\d.]+)", wish))
    return low <= numbers(version) < high


def numbers(version: str) -> tuple[int, ...]:
    release = version.split("+", maxsplit=1)[0]
    return tuple(int(part) for part in release.split(".") if part.isdigit())


def local_wheel(python: Path, wish: str, links: tuple[str, ...]) -> str | None:
    """The version pip would take from local folders alone; nothing is downloaded or contacted."""
    pip = [str(python), "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps"]
    pip += ["--no-index", "--quiet", "--report", "-", *links, wish]
    found = subprocess.run(pip, capture_output=True, text=True, check=False)
    if found.returncode:
        return None
    return str(json.loads(found.stdout)["install"][0]["metadata"]["version"])


def read_page(url: str) -> str:
    trust = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)
    with urllib.request.urlopen(url, timeout=20, context=trust) as page:
        return str(page.read().decode("utf-8", errors="replace"))


def newest_cpu_build(page: str, wish: str) -> str:
    """The newest CPU wheel in the range, for this interpreter and machine, on an index page."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    wheel = rf"torch-([\d.]+)(?:\+|%2B)cpu-{tag}-{tag}-\w*{platform.machine()}\.whl"
    fitting = [version for version in set(re.findall(wheel, page)) if within(version, wish)]
    if not fitting:
        raise ValueError(f"nothing in {wish} for {tag} on {platform.machine()}")
    return f"{max(fitting, key=numbers)}+cpu"


def installed_torch(python: Path) -> str | None:
    code = "from importlib.metadata import version; print(version('torch'))"
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def has_nvidia_driver() -> bool:
    return shutil.which("nvidia-smi") is not None and succeeds(["nvidia-smi", "-L"])


def succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def install(python: Path, choice: Choice, extras: str) -> None:
    if choice.index:
        pip_install(python, [choice.requirement, "--index-url", choice.index, *choice.options])
    target = f"{ROOT}[{extras}]" if extras else str(ROOT)
    pip_install(python, ["--editable", target, choice.requirement, *choice.options])


def pip_install(python: Path, arguments: list[str]) -> None:
    """Run pip quietly, with a sign of life every 20 seconds."""
    command = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    start = time.monotonic()
    with subprocess.Popen([*command, *arguments], stdin=subprocess.DEVNULL) as process:
        while (code := finished(process)) is None:
            say(f"... {time.monotonic() - start:.0f} s")
    if code:
        raise subprocess.CalledProcessError(code, process.args)


def finished(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        return None


def say(text: str) -> None:
    print(f"[install] {text}", file=sys.stderr, flush=True)


def fail(text: str) -> int:
    say(f"error: {text}")
    return 3


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
