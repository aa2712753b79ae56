"""Tasks of the LM Evaluation Harness (https://github.com/EleutherAI/lm-evaluation-harness).

`Adapter` is what the harness calls a model. Requests are put to it as to the harness' own Hugging
Face backend: the same pairs of context and continuation, the same windows over long texts, the same
cuts from the left. Needs the extra `eval`; this module imports the harness.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from espalier.data.tokenizer.base import END_OF_TEXT
from espalier.engine.sampling import Sampling
from espalier.engine.text import Session
from espalier.errors import MachineError, UserError, nearest
from espalier.evaluate.answers import Speaker
from espalier.evaluate.likelihood import ROWS, Scorer
from espalier.evaluate.loss import Autocast
from espalier.intervals import Interval, Z, wilson

NEW = 256  # tokens that an answer has where its task does not say, as in the harness
KNOWN = {"do_sample", "temperature", "top_k", "top_p", "repetition_penalty"}


class Adapter(TemplateLM):  # type: ignore[misc]
    """A model and its tokenizer, `rows` requests in a pass; what is in a pass changes no result."""

    def __init__(
        self,
        session: Session,
        rows: int = ROWS,
        seed: int = 1337,
        autocast: Autocast = contextlib.nullcontext,
    ):
        super().__init__()
        self.session, self.seed = session, seed
        self.score = Scorer(session.model, session.block_size, rows, autocast)
        self.answer = Speaker(session.model, session.tokenizer, session.block_size, rows)
        self.autocast = autocast
        self.between: Callable[[int], None] = lambda done: None

    @property
    def eot_token_id(self) -> int | None:
        return self.session.tokenizer.eot

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it."""
        return self.session.encode("")[0]

    @property
    def max_length(self) -> int:
        return self.session.block_size

    @property
    def tokenizer_name(self) -> str:
        return str(self.session.tokenizer.spec()["name"])

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **ignored: Any
    ) -> list[int]:
        """Nothing is added; an end of text in the string is that token."""
        return self.session.encode(string) if string else []

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **ignored: Any,
    ) -> list[tuple[float, bool]]:
        found = self.score([pair[1:] for pair in requests], self.between)
        return [(one.total, one.greedy) for one in found]

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Of whole texts, in windows that share one token of context."""
        windows = [self._rolling(*request.args) for request in requests]
        pairs = iter(self.score([pair for one in windows for pair in one], self.between))
        return [sum(next(pairs).total for _ in one) for one in windows]

    def _rolling(self, text: str) -> list[tuple[list[int], list[int]]]:
        found = get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        return [make_disjoint_window(pair) for pair in found]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers; requests that are asked for alike share their passes."""
        found: dict[int, str] = {}
        alike: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            alike.setdefault(repr(request.args[1]), []).append(i)
        for places in alike.values():
            contexts = [self.tok_encode(requests[i].args[0]) for i in places]
            texts = self._answers(contexts, requests[places[0]].args[1])
            found |= dict(zip(places, texts, strict=True))
        return [found[i] for i in range(len(requests))]

    def _answers(self, contexts: list[list[int]], wishes: Mapping[str, Any]) -> list[str]:
        asked = normalize_gen_kwargs(dict(wishes), NEW)
        new = asked.pop("max_gen_toks")
        end = END_OF_TEXT if self.eot_token_id is not None else None
        stops = [text for text in handle_stop_sequences(asked.pop("until", None), eos=end) if text]
        if new >= self.max_length:
            raise UserError(
                f"the task asks for {new} new tokens, the model reads {self.max_length}: "
                "give --max-new-tokens"
            )
        with self.autocast():
            return self.answer(contexts, new, stops, self._sampling(asked), self.between)

    def _sampling(self, asked: dict[str, Any]) -> Sampling:
        if unknown := set(asked) - KNOWN:
            raise UserError(f"the task wants {', '.join(sorted(unknown))}: not in this engine")
        draws = asked.pop("do_sample", False)
        heat = asked.pop("temperature", 0.0)
        return Sampling(temperature=(heat or 1.0) if draws else 0.0, seed=self.seed, **asked)


def evaluate(
    adapter: Adapter,
    tasks: Sequence[str],
    *,
    folder: Path | None = None,
    limit: int | None = None,
    shots: int | None = None,
    new: int | None = None,
) -> dict[str, dict[str, Any]]:
    """A record for each task: metrics with standard errors and 95 % intervals.

    `folder` holds task files of one's own. UserError for a task that nobody knows, MachineError for
    one whose data cannot be had.
    """
    manager = find(tasks, folder)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        found = lm_eval.simple_evaluate(
            model=adapter,
            tasks=list(tasks),
            task_manager=manager,
            limit=limit,
            num_fewshot=shots,
            gen_kwargs=None if new is None else {"max_gen_toks": new},
            log_samples=False,
            random_seed=adapter.seed,
            numpy_random_seed=adapter.seed,
            torch_random_seed=adapter.seed,
            fewshot_random_seed=adapter.seed,
        )
    except OSError as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MachineError(
            f"the data of {', '.join(tasks)} cannot be had: {first}. Without a network, give task "
            "files with data of your own: --task-path"
        ) from None
    assert found is not None
    return {name: _record(found, name) for name in found["results"]}


def find(tasks: Sequence[str], folder: Path | None) -> TaskManager:
    """Who knows the tasks: the folder alone where it has them all, for the rest takes seconds."""
    if folder is not None and not folder.is_dir():
        raise UserError(f"--task-path {folder} is no folder of task files")
    if folder is not None:
        own = TaskManager(include_path=str(folder), include_defaults=False)
        if all(own.match_tasks([task]) for task in tasks):
            return own
    manager = TaskManager(include_path=str(folder) if folder else None)
    for task in tasks:
        if not manager.match_tasks([task]):
            raise UserError(
                f"no task '{task}'.{nearest(task, manager.all_tasks)} "
                "Known are the harness' own and those under --task-path"
            )
    return manager


def _record(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    values, counts = found["results"][name], found["n-samples"].get(name, {})
    metrics = {}
    for key, value in values.items():
        metric, _, kind = key.partition(",")
        if not kind or metric.endswith("_stderr") or not isinstance(value, (int, float)):
            continue
        error = values.get(f"{metric}_stderr,{kind}")
        label = metric if kind == "none" else f"{metric} ({kind})"
        metrics[label] = {
            "value": float(value),
            **_interval(float(value), error, counts.get("effective") or 0),
            "higher_is_better": found["higher_is_better"].get(name, {}).get(metric),
        }
    return {
        "metrics": metrics,
        "version": found["versions"].get(name),
        "shots": found["n-shot"].get(name),
        "items": counts.get("effective"),
        "items_there": counts.get("original"),
        "lm_eval": version("lm-eval"),
    }


def _interval(value: float, error: Any, items: int) -> dict[str, float | None]:
    """By the harness' standard error, which it does not give for every metric.

    Where that is the error of so many zeros and ones it is Wilson's interval: the error of a few
    items that all fail would be 0.
    """
    if not isinstance(error, (int, float)) or not math.isfinite(error):
        return {"stderr": None, "low": None, "high": None}
    made = Interval(value, value - Z * error, value + Z * error)
    if items > 1 and 0 <= value <= 1:
        of_shares = math.sqrt(value * (1 - value) / (items - 1))
        if math.isclose(error, of_shares, rel_tol=1e-6, abs_tol=1e-9):
            made = wilson(round(value * items), items)
    return {"stderr": float(error), "low": made.low, "high": made.high}
