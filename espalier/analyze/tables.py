"""What the views found, as rows for a table. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
Rows = list[dict[str, Any]]

MEASURED = ("norm", "mean", "deviation", "excess_kurtosis", "min", "max", "zeros")
SCORED = ("mean", "max", "excess_kurtosis")
COMPETING = ("weight", "share", "branches", "even")


def places(found: Record) -> Rows:
    """Of activations or weights: a row for each place, with its step where there are several.

    The newest step's rows also tell the differences from another run, as `d_...`.
    """
    listed: Rows = []
    newest = next(reversed(found["steps"]))
    for step, measured in found["steps"].items():
        for path, one in measured.items():
            row = {"step": int(step)} if len(found["steps"]) > 1 else {}
            row |= {"name": path, **{key: one[key] for key in MEASURED if key in one}}
            change = found.get("differences", {}).get(path, {}) if step == newest else {}
            listed.append(row | {f"d_{key}": value for key, value in change.items()})
    return listed


def scores(found: Mapping[str, Record]) -> Rows:
    """Attention's scores before the normaliser, and its weights after."""
    return [
        {"step": int(step), "score": path}
        | {f"{key} before": one["before"][key] for key in SCORED}
        | {f"{key} after": one["after"][key] for key in SCORED}
        | {key: one[key] for key in ("entropy", "largest", "row_sum")}
        for step, parts in found.items()
        for path, one in parts.items()
    ]


def section(name: str, found: Record) -> Rows:
    """Of neurons: a row for each part, or for each neuron of a competition."""
    if name == "told":
        count = max(len(values) for values in found.values())
        return [
            {"part": f"number {i}"}
            | {key: values[i] if i < len(values) else None for key, values in found.items()}
            for i in range(count)
        ]
    if name == "competition":
        return [
            {"part": f"{path}.neurons.{i}"}
            | {key: neuron[key] for key in COMPETING}
            | {"branch norms": " ".join(f"{norm:.3g}" for norm in neuron["branch_norms"])}
            for path, layer in found.items()
            for i, neuron in enumerate(layer["neurons"])
        ]
    return [{"part": path} | dict(_plain(one)) for path, one in found.items()]


def _plain(one: Record) -> Iterator[tuple[str, Any]]:
    """Figures of one part: numbers, and of distributions their mean and deviation."""
    for key, value in one.items():
        if isinstance(value, Mapping):
            yield f"{key} mean", value["mean"]
            yield f"{key} dev", value["deviation"]
        elif not isinstance(value, (list, bool)):
            yield key, value


def long(tables: Mapping[str, Sequence[Record]]) -> Rows:
    """Tables of different columns as one of part, figure, value."""
    return [
        {"part": row["part"], "figure": key, "value": value}
        for table in tables.values()
        for row in table
        for key, value in row.items()
        if key != "part"
    ]
