"""Gather the wheels that a machine with torch and a GPU, but no network, lacks to run espalier.

    python3 tools/gpu_bundle.py .gpu-bundle --text tinyshakespeare.txt

Called by `make gpu-bundle`; standard library and pip only. torch and numpy are the machine's own.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
THERE = {"torch", "numpy"}  # what the machine brings
MOST = 60_000_000  # bytes, so that the bundle is quickly carried
GLIBC = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")


def main() -> int:
    parser = argparse.ArgumentParser(description="Wheels for a machine without a network.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="of that machine")
    parser.add_argument("--arch", default="x86_64")
    parser.add_argument("--text", type=Path, help="tiny Shakespeare, for the time to a loss")
    options = parser.parse_args()
    needs = requirements()
    wheels = options.folder / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)  # two versions of one package stop pip
    wheels.mkdir(parents=True)
    platforms = [word for tag in GLIBC for word in ("--platform", f"{tag}_{options.arch}")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
    command += ["--python-version", options.python, "--implementation", "cp", *platforms]
    if subprocess.run([*command, "--dest", str(wheels), *needs], check=False).returncode:
        print("pip could not download them; its own words stand above", file=sys.stderr)
        return 1
    names = "\n".join(re.split(r"[<>=!~]", need)[0] for need in needs)
    (options.folder / "requirements.txt").write_text(names + "\n", encoding="utf-8")
    if options.text is not None:
        shutil.copyfile(options.text, options.folder / "shakespeare.txt")
    size = sum(file.stat().st_size for file in options.folder.rglob("*") if file.is_file())
    sys.stdout.write(
        f"{options.folder}: {len(list(wheels.iterdir()))} wheels, {size / 1e6:.1f} MB\n"
    )
    return 0 if size < MOST else 1


def requirements() -> list[str]:
    """What the package needs at run time and the machine has not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [need for need in project["dependencies"] if re.split(r"[<>=!~]", need)[0] not in THERE]


if __name__ == "__main__":
    sys.exit(main())
