"""`espalier parts`: what can stand where."""

import keyword
from dataclasses import asdict
from pathlib import Path

from espalier import catalog, console, scaffold
from espalier.errors import UserError


def parts(slot: str | None = None, /, *more: str, like: str | None = None) -> dict[str, object]:
    """List the slots, or the parts of one; `new` begins a part of your own.

    For example:

        espalier parts
        espalier parts norm
        espalier parts new norm spiky --like rms

    Args:
        slot: A slot, or `new`.
        more: After `new`: the slot and the new part's name.
        like: The part that a new one begins as a copy of (the slot's shortest).
    """
    if slot == "new":
        if len(more) != 2:
            raise UserError("say: espalier parts new SLOT NAME")
        return _begin(*more, like)
    if more:
        raise UserError(f"one slot at a time, got {' '.join(more)} too")
    return _one(catalog.slot(slot)) if slot else _all()


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
        console.out(f"\n{part.name}\n    {part.summary}")
        if part.formula:
            console.out(f"    {part.formula}")
        for setting in part.settings:
            about = f"  # {setting.summary}" if setting.summary else ""
            console.out(f"      {setting.name}: {setting.default or 'required'}{about}")
    return {"slot": slot.name, "parts": [asdict(part) for part in found]}


def _begin(slot_name: str, name: str, like: str | None) -> dict[str, object]:
    slot = catalog.slot(slot_name)
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise UserError(f"'{name}' cannot be a file of Python code; use lower-case words_like_this")
    begun = scaffold.begin(slot, name, like, Path.cwd())
    for file in begun.files:
        console.out(f"wrote {file}")
    console.out(f"It began as a copy of {begun.like}. Use it: {begun.use}")
    return {"files": list(begun.files), "like": begun.like, "use": begun.use}
