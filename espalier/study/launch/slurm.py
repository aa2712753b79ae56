"""SLURM, through submitit: the trials are the tasks of a job array, and are requeued.

A job that is preempted, or comes near its time limit, saves and goes back into the queue; so does
one whose machine dies. What submitit writes for that is in STUDY/slurm.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from espalier.errors import MachineError, UserError, nearest, need
from espalier.study.book import Book
from espalier.study.launch import Attempt
from espalier.study.launch.errand import LOST, STOPPED, Errand, Report
from espalier.study.launch.queue import Queue, Request, Sent
from espalier.study.orders import Command, train

if TYPE_CHECKING:
    from espalier.study.plan import Trial

LOOK = 2.0  # seconds between two looks at the queue
ARRAY = 1000  # tasks of one array; SLURM's own default refuses more
TIMES = 1000  # that a job may come to its time limit; the errand counts how often in vain
DAY = 24 * 60  # minutes, the time limit where none is asked for
STILL = 120.0  # seconds in which SLURM takes away a job that it has told to end


class OnSlurm(Queue):
    """`settings` are submitit's, such as partition, time (minutes), account, gpus_per_node."""

    def __init__(
        self, book: Book, request: Request, settings: Mapping[str, Any], command: Command = train
    ):
        super().__init__(book, request, command)
        self.depth = ARRAY
        self.submitit = need("submitit", "dist")
        try:
            self.executor = self.submitit.SlurmExecutor(book.place / "slurm", TIMES)
        except RuntimeError:
            raise MachineError(
                "no srun here: --on slurm runs where SLURM takes jobs, such as a login machine"
            ) from None
        self.settings = dict(settings)
        self._set(self._asked(request) | self.settings)

    def _asked(self, request: Request) -> dict[str, Any]:
        found: dict[str, Any] = {
            "job_name": self.book.place.name,
            "time": DAY,
            "cpus_per_task": request.threads,
            "array_parallelism": request.most,
            "additional_parameters": {"requeue": True},
        }
        if request.device.startswith("cuda"):
            found["gpus_per_node"] = 1
        return found

    def _memory(self, trials: Iterable[Trial]) -> dict[str, Any]:
        """Of a task of an array: what the largest needs; a search has others at each call."""
        known = self.request.memory
        needs = [known[trial.key] for trial in trials if trial.key in known]
        if not needs or self.request.device.startswith("cuda"):
            return {}
        return {"mem": f"{max(needs) // 10**6 + 1}MB"}

    def _set(self, settings: Mapping[str, Any]) -> None:
        known = self.submitit.SlurmExecutor._valid_parameters()
        if unknown := sorted(set(settings) - known):
            hint = nearest(unknown[0], known)
            raise UserError(f"--slurm {unknown[0]}: submitit has no such setting.{hint}")
        self.executor.update_parameters(**settings)

    @property
    def spent(self) -> bool:
        return False  # nobody here knows every machine that SLURM has

    def pause(self) -> float:
        return LOOK

    def start(self, attempts: list[Attempt]) -> None:
        if not attempts:
            return
        ours = [one for one in attempts if isinstance(one, Sent)]
        self._set(self._memory(one.trial for one in ours) | self.settings)
        if aside := self.avoided():
            self._set({"exclude": ",".join(aside)})
        try:
            jobs = self.executor.map_array(Job(), [self.errand(one.trial) for one in ours])
        except (OSError, self.submitit.core.utils.FailedJobError) as error:
            raise MachineError(f"sbatch: {str(error).strip().splitlines()[-1]}") from None
        for one, job in zip(ours, jobs, strict=True):
            one.handle = job

    def end(self, attempts: Iterable[Attempt]) -> None:
        """SLURM gives each as long for saving as its KillWait says; nobody waits for it here."""
        ids = [one.handle.job_id for one in attempts if isinstance(one, Sent) and one.handle]
        if ids:
            subprocess.run(["scancel", *ids], check=False)

    def report(self, sent: Sent) -> Report | None:
        job = sent.handle
        if not job.done():
            return None
        if not job.paths.result_pickle.exists():
            return Report(LOST, f"SLURM: {job.state}; see {job.paths.stderr}")
        error = job.exception()
        return Report(LOST, f"SLURM: {error}") if error else job.result()


class Job:
    """What submitit calls: an errand, and what it does before it is put back into the queue."""

    def __call__(self, errand: Errand) -> Report:
        signal.signal(signal.SIGTERM, lambda *_: errand.rest())
        report = errand(os.environ.get("SLURMD_NODENAME", platform.node()))
        if report.code == STOPPED:
            time.sleep(STILL)  # to end by itself would be to be done
        return report

    def checkpoint(self, errand: Errand) -> Any:
        errand.rest()
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, dataclasses.replace(errand, process=None, stopped=False))
