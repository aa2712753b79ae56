"""The run directory: configuration, metrics, checkpoints that survive a crash. Imports no torch."""

import contextlib
import hashlib
import json
import math
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from espalier import lock
from espalier.durable import (
    digest,
    finite,
    read_json,
    rename,
    require_room,
    sync,
    write_json,
    write_whole,
)
from espalier.errors import MachineError, UserError
from espalier.tree import dump, read_yaml

FORMAT = "espalier-checkpoint-1"
MANIFEST = "MANIFEST.json"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
TOKENIZER, CHAT = "tokenizer.json", "chat.json"
BASE = "base.safetensors"  # of a run of adapters: the weights that they stand beside, for all steps
_STEP = re.compile(r"step-(\d{8,})")
# What stands in a run's folder before its config.yaml does, and what is written aside for it.
_CREATING = re.compile(r"environment\.json(\.tmp-\w+)?|config\.yaml\.tmp-\w+|lock(\.\w+)?")


class Run:
    """A run on disk; made with `Run.create` or `Run.open`.

    config.yaml, environment.json, metrics.jsonl (the truth), checkpoints/step-00000500/, results/,
    samples/. `skipped` says which checkpoints the last search found damaged, and how.
    """

    def __init__(self, path: Path, config: dict[str, Any]):
        self.path = path
        self.config = config
        self.skipped: list[str] = []

    @classmethod
    def create(
        cls, path: str | Path, config: Mapping[str, Any], environment: Mapping[str, Any]
    ) -> Self:
        """A new run. UserError when something stands at `path`; config.yaml is what makes a run."""
        folder = Path(path)
        if folder.exists() and (not folder.is_dir() or not _ours(folder)):
            raise UserError(f"{folder} exists already; choose another --out")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "environment.json", environment)
            write_whole(folder / "config.yaml", dump(dict(config)))
        except OSError as error:
            with contextlib.suppress(OSError):
                (folder / "environment.json").unlink(missing_ok=True)
                folder.rmdir()
            raise MachineError(f"cannot write {folder}: {error.strerror or error}") from None
        return cls(folder, dict(config))

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """A run that exists; UserError otherwise."""
        folder = Path(path)
        if not folder.exists():
            raise UserError(f"no run at {folder}")
        if not (folder / "config.yaml").is_file():
            raise UserError(f"{folder} is no run: it has no config.yaml")
        return cls(folder, read_yaml(folder / "config.yaml").tree)

    @property
    def environment(self) -> dict[str, Any]:
        """Where it was made; `resumed` lists later sessions."""
        file = self.path / "environment.json"
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """The right to write here, for one process at a time; UserError names another owner."""
        return self._lock()

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with lock.hold(self.path / "lock"):
            self._tidy()
            yield

    def _tidy(self) -> None:
        """Clean up after a process that was killed while it saved."""
        for rest in self._checkpoints.glob("*.tmp-*"):
            shutil.rmtree(rest, ignore_errors=True)
        for former in self._checkpoints.glob("step-*.was"):
            if former.with_suffix("").exists():
                shutil.rmtree(former, ignore_errors=True)
            else:
                former.rename(former.with_suffix(""))

    def speak(self, tokenizer: Mapping[str, Any], parent: Path | None) -> None:
        """Keep a tokenizer, and the chat template that the folder `parent` has, if any."""
        write_json(self.path / TOKENIZER, tokenizer)
        if parent is not None and (parent / CHAT).is_file():
            write_json(self.path / CHAT, read_json(parent / CHAT))

    # metrics

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl. `record` has "step" and "kind"; NaN becomes null."""
        line = json.dumps(finite(record), ensure_ascii=False, allow_nan=False) + "\n"
        with (self.path / "metrics.jsonl").open("ab") as stream:
            stream.write(line.encode("utf-8"))

    def metrics(self) -> list[dict[str, Any]]:
        """Every record; a last line torn by a crash is left out."""
        file = self.path / "metrics.jsonl"
        lines = file.read_bytes().split(b"\n") if file.exists() else [b""]
        found = []
        for number, line in enumerate(lines[:-1], 1):
            try:
                record = dict(json.loads(line))
            except (ValueError, TypeError):
                raise UserError(f"{file}:{number}: not a JSON object") from None
            if not {"kind", "step"} <= record.keys():
                raise UserError(f"{file}:{number}: no record, it has no kind and step")
            found.append(record)
        return found

    def losses(self) -> list[tuple[int, float]]:
        """Step and validation loss of every evaluation; what was not finite is infinite."""
        found = [record for record in self.metrics() if record["kind"] == "eval"]
        lost = (math.inf if r["val_loss"] is None else r["val_loss"] for r in found)
        return [(r["step"], loss) for r, loss in zip(found, lost, strict=True)]

    def rewind(self, step: int, *, evaluated: bool = True) -> None:
        """Forget what metrics.jsonl says after `step`, a torn last line included.

        Unless `evaluated`, of `step` itself only the update is kept.
        """
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return
        kept = []
        for line in file.read_bytes().split(b"\n")[:-1]:
            with contextlib.suppress(ValueError, KeyError):
                record = json.loads(line)
                last = step if evaluated or record["kind"] == "train" else step - 1
                if record["step"] <= last:
                    kept.append(line + b"\n")
        write_whole(file, b"".join(kept))

    def amend(self, config: Mapping[str, Any], session: Mapping[str, Any]) -> None:
        """Note that a later session goes on here, under a configuration that may differ."""
        former = self.environment
        sessions = [*former.get("resumed", []), session]
        write_json(self.path / "environment.json", {**former, "resumed": sessions})
        if self.config != config:
            write_whole(self.path / "config.yaml", dump(dict(config)))
            self.config = dict(config)

    def result(self, name: str, value: Mapping[str, Any]) -> Path:
        """Write results/NAME.json, whole or not at all."""
        file = self.path / "results" / f"{name}.json"
        file.parent.mkdir(exist_ok=True)
        write_json(file, value)
        return file

    def unfinished(self) -> None:
        """Take back what a former end of this run left in results/, for it goes on."""
        for name in ("train", "exact"):
            (self.path / "results" / f"{name}.json").unlink(missing_ok=True)

    def sample(self, step: int, texts: Sequence[str]) -> None:
        """Write samples/step-00000500.txt."""
        file = self.path / "samples" / f"step-{step:08d}.txt"
        file.parent.mkdir(exist_ok=True)
        write_whole(file, "\n\n".join(texts) + "\n")

    # checkpoints

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint directory, oldest first; nothing is said of its contents."""
        if not self._checkpoints.is_dir():
            return []
        names = (_STEP.fullmatch(folder.name) for folder in self._checkpoints.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def checkpoint(self, step: int) -> Path:
        """The checkpoint directory of a step, whether or not it exists."""
        return self._checkpoints / f"step-{step:08d}"

    def latest(self) -> Path | None:
        """The newest checkpoint whose every byte is as it was written; None when there is none."""
        self.skipped = []
        for step in reversed(self.steps()):
            if self._sound(step):
                return self.checkpoint(step)
        return None

    def best(self) -> Path | None:
        """The sound checkpoint of lowest `val_loss` in its state; None when none has one."""
        self.skipped = []
        losses = {step: self._val_loss(step) for step in self.steps()}
        for step in sorted(losses, key=lambda step: (losses[step], step)):
            if losses[step] < math.inf and self._sound(step):
                return self.checkpoint(step)
        return None

    def commit(
        self,
        step: int,
        write: Callable[[Path], None],
        state: Mapping[str, Any],
        *,
        keep: int = 2,
        size: int = 0,
    ) -> Path:
        """Make a checkpoint, whole or not at all: `write` fills a directory, state.json is added.

        A crash at any moment leaves every earlier checkpoint, and this one or none of it. Then only
        the newest `keep` and the best stay, once this one has been read back and found sound.
        Raises MachineError when the disk has not `size` bytes and a fifth, or refuses.
        """
        target = self.checkpoint(step)
        working = target.with_name(f"{target.name}.tmp-{uuid.uuid4().hex[:8]}")
        try:
            self._checkpoints.mkdir(exist_ok=True)
            require_room(self._checkpoints, size)
            if (self.path / "metrics.jsonl").exists():
                sync(self.path / "metrics.jsonl")
            working.mkdir()
            write(working)
            write_json(working / STATE, state)
            _seal(working, step)
            self._place(working, target)
        except OSError as error:
            raise MachineError(
                f"cannot save step {step} in {self.path}: {error.strerror or error}. "
                "Earlier checkpoints are untouched"
            ) from None
        finally:
            shutil.rmtree(working, ignore_errors=True)
        self._retain(step, keep)
        return target

    def _place(self, working: Path, target: Path) -> None:
        """Move a complete directory to its name; one that stands there makes way until then."""
        former = target.with_name(f"{target.name}.was")
        if target.exists():
            rename(target, former)
        rename(working, target)
        sync(self._checkpoints)
        shutil.rmtree(former, ignore_errors=True)

    def _retain(self, newest: int, keep: int) -> None:
        steps = self.steps()
        best = min(steps, key=lambda step: (self._val_loss(step), step))
        spare = [step for step in steps[:-keep] if step not in {best, newest}]
        if spare and verify(self.checkpoint(newest)) is None:
            for step in spare:
                shutil.rmtree(self.checkpoint(step), ignore_errors=True)

    def _sound(self, step: int) -> bool:
        problem = verify(self.checkpoint(step))
        if problem:
            self.skipped.append(f"{self.checkpoint(step)}: {problem}")
        return problem is None

    def _val_loss(self, step: int) -> float:
        try:
            found = json.loads((self.checkpoint(step) / STATE).read_text(encoding="utf-8"))
            loss = found.get("val_loss")
        except (OSError, ValueError, AttributeError):
            return math.inf
        return loss if isinstance(loss, float) and math.isfinite(loss) else math.inf


def weight_files(checkpoint: Path) -> list[Path]:
    """The safetensors files of a checkpoint's weights: one, or one of each rank that wrote it."""
    whole = checkpoint / MODEL
    if whole.is_file():
        return [whole]
    return sorted(checkpoint.glob(f"{whole.stem}-*-of-*{whole.suffix}"))


def weights_digest(checkpoint: Path) -> str | None:
    """SHA-256 of the weights, as the manifest has it; of several files, over theirs."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
        found = [str(files[file.name]["sha256"]) for file in weight_files(checkpoint)]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if len(found) < 2:
        return found[0] if found else None
    return hashlib.sha256("\n".join(found).encode("ascii")).hexdigest()


def weights_count(checkpoint: Path) -> int | None:
    """How many numbers the weights are, adapters with what they stand beside; None if unreadable.

    From the headers of the files: 8 bytes of length, then JSON.
    """
    base, held, count = checkpoint.parent.parent / BASE, weight_files(checkpoint), 0
    try:
        for file in [*held, base] if base.is_file() else held:
            with file.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(min(length, file.stat().st_size)))
            shapes = [one["shape"] for name, one in header.items() if name != "__metadata__"]
            count += sum(math.prod(shape) for shape in shapes)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return count if held else None


def verify(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint directory, as a sentence; None when every byte is right."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        files = {name: (note["size"], note["sha256"]) for name, note in manifest["files"].items()}
        step = int(manifest["step"])
    except FileNotFoundError:
        return f"{MANIFEST} is missing: it was never completed"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    if manifest.get("format") != FORMAT:
        return f"{MANIFEST} is of the format {manifest.get('format')!r}, this reads {FORMAT!r}"
    if checkpoint.name != f"step-{step:08d}":
        return f"{MANIFEST} is of step {step}"
    for name, (size, expected) in files.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, {size} were written"
        if digest(file) != expected:
            return f"{name} has changed since it was written (SHA-256)"
    return None


def _seal(folder: Path, step: int) -> None:
    """Bring every file to the disk, then write the manifest that makes the directory count."""
    files = {}
    for file in sorted(folder.iterdir()):
        sync(file)
        files[file.name] = {"size": file.stat().st_size, "sha256": digest(file)}
    write_json(folder / MANIFEST, {"format": FORMAT, "step": step, "files": files})
    sync(folder)


def _ours(folder: Path) -> bool:
    """Whether a directory holds at most what an interrupted `create` leaves."""
    return all(_CREATING.fullmatch(file.name) for file in folder.iterdir())
