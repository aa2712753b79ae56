"""Trains a tiny run while killing it: `python killer.py FOLDER KILLS SEED [override …]`.

Torch is imported once, and every attempt is a fork that starts from there, so that a kill costs
milliseconds. Leaves FOLDER/whole, never interrupted, and FOLDER/killed; prints the kills made.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from espalier.fit import fit
from tests.train import tiny


def attempt(folder: Path, overrides: list[str]) -> None:
    plan = tiny.experiment(folder.parent / "corpus", *overrides)
    for _ in fit(plan, folder, resume=(folder / "config.yaml").exists(), device="cpu"):
        pass


def forked(folder: Path, overrides: list[str], patience: float) -> bool:
    """Train in a child, killed after `patience` seconds; whether it came to its end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            attempt(folder, overrides)
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + patience
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, "training failed"
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main(folder: Path, kills: int, seed: int, overrides: list[str]) -> None:
    tiny.corpus(folder / "corpus")
    start = time.monotonic()
    assert forked(folder / "whole", overrides, 120)
    whole = time.monotonic() - start
    chance = random.Random(seed)
    made = 0
    while made < kills and not forked(folder / "killed", overrides, chance.uniform(0, whole)):
        made += 1
    if made == kills:
        assert forked(folder / "killed", overrides, 120)
    sys.stdout.write(f"{made}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
