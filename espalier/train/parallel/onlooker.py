"""A run as the ranks see it that do not write it."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espalier.run import Run


class Onlooker(Run):
    """Reads what the first rank's run has; whatever would be written, that one writes."""

    def lock(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def log(self, record: Mapping[str, Any]) -> None:
        pass

    def rewind(self, step: int, *, evaluated: bool = True) -> None:
        pass

    def amend(self, config: Mapping[str, Any], session: Mapping[str, Any]) -> None:
        self.config = dict(config)

    def result(self, name: str, value: Mapping[str, Any]) -> Path:
        return self.path / "results" / f"{name}.json"

    def unfinished(self) -> None:
        pass

    def sample(self, step: int, texts: Sequence[str]) -> None:
        pass
