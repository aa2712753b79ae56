"""Studies written by hand, as a sweep leaves them: the record, and runs with their own files."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGAN = 1_700_000_000.0


class Made:
    """Writes STUDY; every trial is told of in order."""

    def __init__(self, place: Path):
        self.place, self.clock = place, BEGAN
        (place / "runs").mkdir(parents=True)
        (place / "trials").mkdir()
        self._append(place / "study.jsonl")

    def note(self, state: str, settings: Mapping[str, Any], seed: int = 1, **fields: Any) -> str:
        """A record; its key is the settings' own."""
        name = "-".join(str(value) for value in settings.values()) or "baseline"
        key = f"{name}-s{seed}"
        self.clock += 1
        record = {"state": state, "key": key, "configuration": name, "seed": seed}
        record |= {"settings": dict(settings), "worker": 0, **fields, "time": self.clock}
        self._append(self.place / "study.jsonl", record)
        return key

    def begin(self, settings: Mapping[str, Any], seed: int = 1, steps: int = 100) -> str:
        key = self.note("STARTED", settings, seed)
        (self.place / "runs" / key / "results").mkdir(parents=True, exist_ok=True)
        config = f"seed: {seed}\ntrain: {{max_iters: {steps}}}\n"
        (self.place / "runs" / key / "config.yaml").write_text(config, "utf-8")
        (self.place / "trials" / f"{key}.yaml").write_text(config, "utf-8")
        return key

    def train(self, key: str, losses: Sequence[float], first: int = 10, every: int = 10) -> None:
        """Records of training and, beside each, of an evaluation that is 0.1 higher."""
        for number, loss in enumerate(losses):
            step = first + every * number
            more = {"tokens_per_s": 1000.0, "ms": 5.0, "tokens": step * 32}
            self.log(key, kind="train", step=step, loss=loss, **more)
            self.log(key, kind="eval", step=step, val_loss=loss + 0.1)

    def log(self, key: str, **record: Any) -> None:
        self._append(self.place / "runs" / key / "metrics.jsonl", record)

    def end(
        self, settings: Mapping[str, Any], loss: float, seed: int = 1, parameters: int = 1000
    ) -> str:
        """A trial from its beginning to its end, after a hundred steps and ten seconds."""
        key = self.begin(settings, seed)
        falling = [loss - 0.1 + math.exp(-i / 2) for i in range(9)]
        self.train(key, [*falling, loss - 0.1])
        summary = {"reason": "horizon", "parameters": parameters, "step": 100, "tokens": 3200}
        summary |= {"seconds": 10.0, "val_loss": loss, "best_val_loss": loss}
        (self.place / "runs" / key / "results" / "train.json").write_text(json.dumps(summary))
        self.note("COMPLETE", settings, seed, **summary)
        return key

    def _append(self, file: Path, *records: Mapping[str, Any]) -> None:
        with file.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(record) + "\n" for record in records)
