"""STUDY/report.md, written from the log and the runs' own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espalier.agent import citing, facts
from espalier.agent.budget import Budget, Spent
from espalier.agent.facts import Facts
from espalier.agent.journal import Journal
from espalier.durable import digest, write_whole

REPORT = "report.md"


def write(study: Path, journal: Journal, budget: Budget) -> tuple[Path, list[str]]:
    """Write the report; its place, and what in the conclusion does not match the runs."""
    runs = {name: facts.read(study, name) for name in facts.runs(study)}
    end = journal.of("end")[-1]
    checked = citing.check(end["conclusion"], runs)
    spent = Spent.of(end["spent"])
    about = journal.of("start")[0]
    lines = [
        "# Research report",
        "",
        *(f"> {line}".rstrip() for line in about["problem"].strip().splitlines()),
        "",
        f"Experiments chosen by {about['model']}; run by espalier {about['version']}.",
        f"Ended: {end['reason']}. Spent: {spent.line(budget)}.",
        "",
        "## Conclusion",
        "",
        checked.text.strip() or "The model gave none.",
        "",
        *_mismatches(checked.wrong),
        "## Experiments",
        "",
        *_experiments(journal, runs),
        "",
        "Losses, tokens, seconds and hashes (SHA-256, the first twelve digits: of config.yaml, and",
        "of the newest weights) are read from the runs' files.",
        "",
        *_cited(study, checked.cited, runs),
        "## Record",
        "",
        f"Every message, call and result: `log.jsonl`, {len(journal.records)} records,",
        f"SHA-256 {digest(journal.file)}.",
        "",
    ]
    place = study / REPORT
    write_whole(place, "\n".join(lines))
    return place, list(checked.wrong)


def _mismatches(wrong: Sequence[str]) -> list[str]:
    if not wrong:
        return []
    title = f"**Does not match the runs' files** ({citing.MARK} above):"
    return [title, "", *(f"* {line}" for line in wrong), ""]


def _experiments(journal: Journal, runs: Mapping[str, Facts]) -> list[str]:
    calls = [one for one in journal.of("call") if one["tool"] == "train"]
    if not calls:
        return ["None was run."]
    ends = {one["call"]: one for one in journal.of("result")}
    common = [one for one in _overrides(calls[0]) if all(one in _overrides(c) for c in calls)]
    names = ("#", "run", "recipe", "overrides", "val loss", "best", "tokens", "s", "how it ended")
    rows = [names, tuple("---" for _ in names)]
    for number, call in enumerate(calls, 1):
        start = call["given"].get("recipe") or "–"
        apart = " ".join(_code(one) for one in _overrides(call) if one not in common)
        run = runs.get(str(call.get("run")))
        rows.append((str(number), *map(_safe, (_run(call, run), start, apart or "–"))))
        rows[-1] += tuple(map(_safe, _measured(ends.get(call["n"], {}), run)))
    shared = f"All with {' '.join(map(_code, common))}." if len(calls) > 1 and common else ""
    return [*([shared, ""] if shared else []), *(f"| {' | '.join(row)} |" for row in rows)]


def _run(call: Mapping[str, Any], run: Facts | None) -> str:
    given = call["given"]
    begun = [f"{key} {given[key]}" for key in ("init", "resume") if given.get(key)]
    return " ".join(["–" if run is None else f"[{run.name}]", *begun])


def _measured(end: Mapping[str, Any], run: Facts | None) -> list[str]:
    numbers = {} if run is None else run.numbers
    found = [_cell(numbers, key) for key in ("val_loss", "best_val_loss", "tokens", "seconds")]
    how = end.get("error") or ("no run was made" if run is None else run.ended)
    return [*found, str(how)]


def _overrides(call: Mapping[str, Any]) -> list[str]:
    listed = call["given"].get("overrides") or []
    return list(map(str, listed if isinstance(listed, list) else [listed]))


def _safe(text: str) -> str:
    """Within a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _cell(numbers: Mapping[str, float], key: str) -> str:
    return citing.shown(numbers[key]) if key in numbers else "–"


def _code(text: str) -> str:
    return f"`{text}`"


def _cited(study: Path, cited: Sequence[str], runs: Mapping[str, Facts]) -> list[str]:
    """Every run by directory and digest, those of the conclusion first."""
    names = [*cited, *(name for name in runs if name not in cited)]
    if not names:
        return []
    lines = [
        f"* [{name}] `{study / name}`: configuration {runs[name].configuration}, "
        f"weights {runs[name].weights or 'none'}, {runs[name].ended}"
        + ("" if name in cited else "; not cited")
        for name in names
    ]
    return ["## Runs", "", *lines, ""]
