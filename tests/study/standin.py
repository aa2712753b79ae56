"""SLURM's programs, as far as submitit calls them: jobs are processes of this machine.

`install` puts sbatch, srun, sacct, scancel and scontrol on PATH. There are two machines, n0 and n1.
Like SLURM, they take a job away with SIGTERM and, a little later, SIGKILL; they begin it again
under its id where it is to be requeued; and they send signals to the job's step, not to its shell.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

NODES = ("n0", "n1")
KILL_WAIT = 0.5  # seconds
PLACE = "SLURM_STANDIN"  # names the folder with everything that is known of the jobs


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "bin").mkdir(parents=True)
    for name in ("sbatch", "srun", "sacct", "scancel", "scontrol"):
        text = f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n'
        (folder / "bin" / name).write_text(text, encoding="utf-8")
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv(PLACE, str(folder))


def jobs() -> Path:
    return Path(os.environ[PLACE])


def preempt(task: str) -> None:
    """SLURM takes the machine away and puts the job back into its queue."""
    (jobs() / f"{task}.requeue").touch()
    strike(task, signal.SIGTERM)


def fail_node(task: str) -> None:
    """The machine dies, and SLURM gives the job another."""
    (jobs() / f"{task}.requeue").touch()
    strike(task, signal.SIGKILL)


def strike(task: str, number: int) -> None:
    """A signal for the job's step."""
    file = jobs() / f"{task}.step"
    if file.is_file():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.read_text(encoding="utf-8")), number)


def states() -> dict[str, list[str]]:
    """Task -> state and machine."""
    files = sorted(jobs().glob("*.state"))
    return {file.stem: file.read_text(encoding="utf-8").split() for file in files}


def sbatch(file: str) -> None:
    number = len(list(jobs().glob("*.job"))) + 1
    text = Path(file).read_text(encoding="utf-8")
    (jobs() / f"{number}.job").write_text(text, encoding="utf-8")
    words = [sys.executable, __file__, "control", str(number)]
    subprocess.Popen(
        words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    say(f"Submitted batch job {number}")


def asked(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if "#SBATCH" in line]
    pairs = (shlex.split(line)[0].partition("=") for line in lines)
    return {key: value for key, _, value in pairs}


def control(number: str) -> None:
    """One job or array, until each of its tasks has ended."""
    wanted = asked((jobs() / f"{number}.job").read_text(encoding="utf-8"))
    last, most = re.fullmatch(r"0-(\d+)%(\d+)", wanted.get("array", "0-0%1")).groups()  # type: ignore[union-attr]
    names = [f"{number}_{i}" for i in range(int(last) + 1)] if "array" in wanted else [number]
    nodes = [node for node in NODES if node not in wanted.get("exclude", "").split(",")]
    tasks: dict[str, dict[str, Any]] = {name: {"state": "PENDING"} for name in names}
    turn = 0
    while any(task["state"] in ("PENDING", "RUNNING") for task in tasks.values()):
        for name, task in tasks.items():
            running = sum(other["state"] == "RUNNING" for other in tasks.values())
            if task["state"] == "PENDING" and (jobs() / f"{name}.cancel").exists():
                task["state"] = "CANCELLED"
            elif task["state"] == "PENDING" and running < int(most):
                begin(number, name, task, nodes[turn % len(nodes)])
                turn += 1
            elif task["state"] == "RUNNING":
                look(name, task)
            told = f"{task['state']} {task.get('node', 'None')}"
            (jobs() / f"{name}.state").write_text(told, encoding="utf-8")
        time.sleep(0.05)


def begin(number: str, name: str, task: dict[str, Any], node: str) -> None:
    array = {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": name.partition("_")[2]}
    mine = {"SLURM_JOB_ID": name, "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURMD_NODENAME": node}
    around = {**os.environ, **mine, **(array if "_" in name else {})}
    words = ["bash", str(jobs() / f"{number}.job")]
    process = subprocess.Popen(words, env=around, start_new_session=True)
    task |= {"state": "RUNNING", "node": node, "process": process, "taken": 0.0}


def look(name: str, task: dict[str, Any]) -> None:
    requeue, cancel = jobs() / f"{name}.requeue", jobs() / f"{name}.cancel"
    code = task["process"].poll()
    if code is None and (requeue.exists() or cancel.exists()):
        task["taken"] = task["taken"] or time.monotonic()
        if time.monotonic() > task["taken"] + KILL_WAIT:
            strike(name, signal.SIGKILL)
    elif code is not None and requeue.exists():
        requeue.unlink()
        (jobs() / f"{name}.step").unlink(missing_ok=True)
        task["state"] = "PENDING"
    elif code is not None:
        done = "FAILED" if code else "COMPLETED"
        task["state"] = "CANCELLED" if cancel.exists() else done


def srun(*words: str) -> None:
    """Becomes the step."""
    name = os.environ["SLURM_JOB_ID"]
    values, rest = {}, list(words)
    while rest[0].startswith("--"):
        option = rest.pop(0)
        values[option] = rest.pop(0) if option in ("--output", "--error") else ""
    for option, stream in (("--output", 1), ("--error", 2)):
        file = values[option].replace("%A_%a", name).replace("%j", name).replace("%t", "0")
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), stream)
    (jobs() / f"{name}.step").write_text(str(os.getpid()), encoding="utf-8")
    os.execvp(rest[0], rest)


def sacct(*words: str) -> None:
    say("JobID|State|NodeList")
    for name, (state, node) in states().items():
        if name.partition("_")[0] in words:
            say(f"{name}|{state}|{node}")


def scancel(*words: str) -> None:
    for name in words:
        (jobs() / f"{name}.cancel").touch()
        strike(name, signal.SIGTERM)


def scontrol(verb: str, name: str) -> None:
    assert verb == "requeue"
    (jobs() / f"{name}.requeue").touch()
    strike(name, signal.SIGTERM)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
