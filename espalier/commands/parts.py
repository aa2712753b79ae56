"""`espalier parts`: what can stand where."""

import keyword
from dataclasses import asdict
from pathlib import Path

from espalier import catalog, console, scaffold
from espalier.errors import UserError, nearest
from espalier.starting import uncollected


def parts(slot: str | None = None, /, *more: str, like: str | None = None) -> dict[str, object]:
    """List the slots, the parts of one, or what one part costs; `new` begins a part of your own.

    For example:

        espalier parts
        espalier parts norm
        espalier parts score softermax
        espalier parts new norm spiky --like rms

    Args:
        slot: A slot, or `new`.
        more: A part of the slot; after `new`, the slot and the new part's name.
        like: The part that a new one begins as a copy of (the slot's shortest).
    """
    if slot == "new":
        if len(more) != 2:
            raise UserError("say: espalier parts new SLOT NAME")
        return _begin(*more, like)
    if len(more) > 1:
        raise UserError(f"one part at a time, got {' '.join(more[1:])} too")
    if slot is None:
        return _all()
    return _part(catalog.slot(slot), more[0]) if more else _one(catalog.slot(slot))


def _all() -> dict[str, object]:
    found = catalog.slots()
    width = max(map(len, found))
    for slot in found.values():
        names = ", ".join(file.stem for file in catalog.part_files(slot))
        console.out(f"{slot.name:{width}}  {names}")
    console.out("\nespalier parts SLOT says more; espalier parts new SLOT NAME begins your own")
    return {name: [file.stem for file in catalog.part_files(slot)] for name, slot in found.items()}


def _one(slot: catalog.Slot) -> dict[str, object]:
    console.out(f"{slot.name}: {slot.summary}")
    found = catalog.parts(slot)
    for part in found:
        console.out()
        _say(part)
    return {"slot": slot.name, "parts": [asdict(part) for part in found]}


def _say(part: catalog.Part) -> None:
    console.out(f"{part.name}\n    {part.summary}")
    if part.formula:
        console.out(f"    {part.formula}")
    for setting in part.settings:
        about = f"  # {setting.summary}" if setting.summary else ""
        console.out(f"      {setting.name}: {setting.default or 'required'}{about}")


def _part(slot: catalog.Slot, name: str) -> dict[str, object]:
    """One part, with what only a model built of it can tell."""
    known = {part.name: part for part in catalog.parts(slot)}
    if name not in known:
        raise UserError(f"no {slot.name} named '{name}'.{nearest(name, known)}")
    _say(known[name])
    told: dict[str, object] = {"slot": slot.name, **asdict(known[name])}
    with uncollected():
        from espalier.cost import parts as cost

    if slot.name not in cost.bases():
        return told
    facts = cost.facts(slot.name, name)
    special = ", ".join(f"{count:g} {what}" for what, count in facts.special.items())
    for title, value in {
        "parameters": f"{facts.parameters:,}",
        "operations": f"{facts.flops:,} in matrix products, per token",
        "special functions": special or "none",
        "passes over a row": str(facts.passes),
        "goes on from a cache": _law(facts.steps),
        "compiles": _law(facts.compiles),
    }.items():
        console.out(f"    {title}: {value}")
    console.out(f"  in {cost.WHERE}")
    return told | {"cost": asdict(facts)}


def _law(reason: str) -> str:
    return f"no: {reason}" if reason else "yes"


def _begin(slot_name: str, name: str, like: str | None) -> dict[str, object]:
    slot = catalog.slot(slot_name)
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise UserError(f"'{name}' cannot be a file of Python code; use lower-case words_like_this")
    begun = scaffold.begin(slot, name, like, Path.cwd())
    for file in begun.files:
        console.out(f"wrote {file}")
    console.out(f"It began as a copy of {begun.like}. Use it: {begun.use}")
    return {"files": list(begun.files), "like": begun.like, "use": begun.use}
