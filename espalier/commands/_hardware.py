"""What `check --hardware` tells: a circuit's work for a model, by place, and what that takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from espalier.errors import UserError
from espalier.evaluate.tables import table
from espalier.units import count, size

if TYPE_CHECKING:
    from espalier.cost.energy import Format
    from espalier.cost.hardware import Case
    from espalier.experiment import Experiment

LARGEST = 4096  # rows and columns of an array


def facts(plan: Experiment, form: str, array: str) -> dict[str, Any]:
    """One token behind a full window, a prompt of one, and an array of multipliers."""
    from espalier.cost import hardware
    from espalier.cost.energy import FORMATS
    from espalier.nn.gpt import sketch

    rows, columns = sides(array)
    numbers, window = FORMATS[form], plan.model.block_size
    model = sketch(plan.model).eval()
    token = hardware.token(model, window, numbers)
    prompt = hardware.prompt(model, window, numbers)
    return {
        "format": form,
        "window": window,
        "token": _token(token, numbers) | _timed(token, rows, columns),
        "prompt": _timed(prompt, rows, columns),
        "array": {
            "rows": rows,
            "columns": columns,
            "area_mm2": rows * columns * numbers.area * 1e-6,
        },
    }


def sides(array: str) -> tuple[int, int]:
    """`16x8` as numbers."""
    found = [int(side) for side in array.split("x") if side.isdecimal()]
    if len(found) != 2 or array.count("x") != 1 or not all(1 <= n <= LARGEST for n in found):
        raise UserError(f"--array {array}: write ROWSxCOLUMNS, each 1 to {LARGEST}, such as 16x16")
    return found[0], found[1]


def _token(case: Case, form: Format) -> dict[str, Any]:
    places = {
        name: {
            "products": work.multiplications,
            "weight_bytes": work.weights / 8,
            "special": dict(work.special),
            "joules": work.energy(form),
        }
        for name, work in case.places.items()
    }
    return {
        "joules": case.energy(form),
        "whole_pass": case.tokens > 1,
        "remembered_bytes": case.remembered * form.bits / 8,
        "remembered_joules": case.energy(form) - case.all.energy(form),
        "weight_bytes": case.all.weights / 8,
        "special": dict(case.all.special),
        "places": places,
    }


def _timed(case: Case, rows: int, columns: int) -> dict[str, Any]:
    from espalier.cost import hardware

    products = case.all.products
    return {
        "products": case.all.multiplications,
        "cycles": hardware.cycles(products, rows, columns),
        "busy": hardware.busy(products, rows, columns),
    }


def lines(name: str, found: dict[str, Any]) -> Iterator[str]:
    """The same for people."""
    token, prompt, array = found["token"], found["prompt"], found["array"]
    window, form = found["window"], found["format"]
    behind = "a whole pass: a part has no cache" if token["whole_pass"] else "the last"
    yield f"{name} in {form}: one token of {window:,} ({behind})"
    rows = [["", "products", "read", "energy"]]
    rows += [
        [
            place,
            count(one["products"]) if one["products"] else "",
            size(one["weight_bytes"]) if one["weight_bytes"] else "",
            _joules(one["joules"]),
        ]
        for place, one in token["places"].items()
        if one["products"] or one["weight_bytes"]
    ]
    kept = size(token["remembered_bytes"])
    rows += [["what is remembered", "", kept, _joules(token["remembered_joules"])]]
    read = size(token["weight_bytes"] + token["remembered_bytes"])
    rows += [["all", count(token["products"]), read, _joules(token["joules"])]]
    yield from table(rows)
    yield "special functions of a token"
    for place, one in token["places"].items():
        if one["special"]:
            said = ", ".join(f"{number:,} {what}" for what, number in one["special"].items())
            yield f"  {place}: {said}"
    side = f"{array['rows']} x {array['columns']}"
    yield f"array        {side} multiply-adds: {array['area_mm2']:.3g} mm2"
    for what, case in (("a token", token), (f"a prompt of {window:,}", prompt)):
        yield f"cycles       {count(case['cycles'])} for {what}, the array {case['busy']:.1%} busy"
    yield "at 45 nm, weights and what is remembered from DRAM (Horowitz, ISSCC 2014); special"
    yield "functions have no price, activations, control and wires are left out: lower bounds"


def _joules(number: float) -> str:
    return f"{1e6 * number:,.2f} uJ"
