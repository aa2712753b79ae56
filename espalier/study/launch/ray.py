"""Ray: each trial a task, on the cluster that `ray start` has made, or on this machine alone.

Ray finds the place, by CPUs, GPUs and memory, and runs a task again elsewhere when its worker or
its machine dies.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from espalier.errors import MachineError, UserError, need
from espalier.study.book import Book
from espalier.study.launch import GRACE, Attempt
from espalier.study.launch.errand import BUG, LOST, STOPPED, Errand, Report
from espalier.study.launch.queue import Queue, Request, Sent
from espalier.study.orders import Command, train

if TYPE_CHECKING:
    from espalier.study.plan import Trial

NODE = "ray.io/node-id"  # the label that every machine of a cluster has


def connect() -> ModuleType:
    """Ray, connected to the cluster of RAY_ADDRESS, else to this machine's, else to a new one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")  # its words on stdout, where ours stand
    ray = need("ray", "ray")
    if not ray.is_initialized():
        try:
            ray.init(log_to_driver=False, logging_level="error", include_dashboard=False)
        except Exception as error:  # nothing narrower where a machine does not come up in time
            where = os.environ.get("RAY_ADDRESS", "this machine")
            said = str(error).partition("\n")[0]
            raise MachineError(f"no Ray cluster at {where}: {said}. See `ray status`") from None
    return ray


def request(
    ray: ModuleType,
    device: str,
    workers: int | None,
    threads: int | None,
    memory: Mapping[str, int],
) -> Request:
    """For each GPU of the cluster a trial, without any GPU for each machine; or what is asked."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(node.get("GPU", 0) for node in nodes)
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device not in ("cpu", "cuda"):
        raise UserError(f"--on ray takes --device cpu or cuda, got {device}: Ray chooses which one")
    if device == "cuda" and not gpus:
        raise MachineError("--device cuda: no machine of this Ray cluster has a GPU")
    of = "GPU" if device == "cuda" else "CPU"
    able = [node for node in nodes if node.get(of)]
    most = workers or int(gpus if device == "cuda" else len(able))
    share = sum(node["CPU"] for node in able) / most
    whole = min(share, *(node["CPU"] for node in able))
    return Request(device, threads or max(1, int(whole)), most, memory)


class OnRay(Queue):
    """Needs Ray to be connected; its `request` is best made by the function of that name."""

    def __init__(self, book: Book, request: Request, command: Command = train):
        super().__init__(book, request, command)
        self.ray = connect()
        self.task = self.ray.remote(run)
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        self.memory = max(int(node.get("memory", 0)) for node in nodes)
        cpus = sum(node.get("CPU", 0) for node in nodes)
        self.cpus = min(request.threads, cpus / request.most)

    @property
    def spent(self) -> bool:
        aside = set(self.avoided())
        return bool(aside) and {n["NodeID"] for n in self.ray.nodes() if n["Alive"]} <= aside

    def start(self, attempts: list[Attempt]) -> None:
        for one in attempts:
            assert isinstance(one, Sent)
            task = self.task.options(**self._asked(one.trial))
            one.handle = task.remote(self.errand(one.trial))

    def _asked(self, trial: Trial) -> dict[str, Any]:
        """Retries without end: the errand itself counts how often it came no further."""
        found: dict[str, Any] = {"name": trial.key, "num_cpus": self.cpus, "max_retries": -1}
        if self.request.device == "cuda":
            found["num_gpus"] = 1
        elif trial.key in self.request.memory:  # the largest may always try
            found["memory"] = min(self.request.memory[trial.key], self.memory)
        if aside := self.avoided():
            found["label_selector"] = {NODE: f"!in({','.join(aside)})"}
        return found

    def end(self, attempts: Iterable[Attempt]) -> None:
        left = [one.handle for one in attempts if isinstance(one, Sent) and one.handle]
        for force in (False, True):
            for handle in left:
                self.ray.cancel(handle, force=force)
            if left:
                _, left = self.ray.wait(left, num_returns=len(left), timeout=GRACE)

    def report(self, sent: Sent) -> Report | None:
        done, _ = self.ray.wait([sent.handle], timeout=0)
        if not done:
            return None
        wrong = self.ray.exceptions
        try:
            found: Report = self.ray.get(sent.handle)
            return found
        except wrong.TaskCancelledError:
            return Report(STOPPED)
        except wrong.RayTaskError as error:
            return Report(BUG, f"{type(error.cause).__name__}: {error.cause}")
        except wrong.RayError as error:
            return Report(LOST, f"Ray: {str(error).partition(chr(10))[0]}")


def run(errand: Errand) -> Report:
    """The task, on whichever machine Ray has chosen."""
    import ray

    return errand(ray.get_runtime_context().get_node_id())
