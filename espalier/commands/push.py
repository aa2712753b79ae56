"""`espalier push RUN --repo NAME`: an export and its model card, to the Hugging Face hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier import console
from espalier.commands.export import lines, model_of
from espalier.errors import UserError
from espalier.starting import uncollected

if TYPE_CHECKING:
    from espalier.report.reading import Story


def push(
    run: Path,
    /,
    *,
    repo: str,
    private: bool = False,
    out: Path | None = None,
    step: int | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Export a run for transformers, write its model card, and upload both to the hub.

    The card has data, curves, metrics, limits, hashes and how to load the model. The token is taken
    from HF_TOKEN, from a .env file here or from the hub's cache, and is never shown.

    Example: espalier push runs/shakespeare --repo me/shakespeare --private

    Parameters
    ----------
    run
        A run.
    repo
        NAME or OWNER/NAME; made where it does not exist.
    private
        For a repository that is made: only its owner sees it.
    out
        Where to prepare the folder; left out, RUN with -hub at the end of its name.
    step
        The checkpoint; the newest when left out.
    dry_run
        Prepare the folder and upload nothing.
    """
    from espalier.export import hub
    from espalier.report import card, reading

    if not (run / "config.yaml").is_file():
        raise UserError(f"{run} is no run, which the card tells of: espalier import makes one")
    secret = None if dry_run else hub.token()
    with uncollected():
        from espalier import api
        from espalier.export import writing
    folder = out or run.resolve().with_name(f"{run.resolve().name}-hub")
    loaded = api.load(run, step=step, device="cpu")
    found = writing.hf(model_of(loaded), folder)
    story = upto(reading.read(run), step)
    figure = card.curves(story)
    if figure is not None:
        (folder / card.CURVES).write_bytes(figure)
    text = card.card(story, found, repo, drawn=figure is not None)
    (folder / "README.md").write_text(text, encoding="utf-8")
    for line in lines(found):
        console.out(line)
    console.out(f"model card: {folder / 'README.md'}")
    if secret is None:
        console.out(f"nothing was uploaded; without --dry-run: hf upload {repo} {folder}")
        return {**found, "repo": repo, "uploaded": False}
    address = hub.upload(folder, repo, secret, f"Espalier: {run.name}", private=private)
    console.out(address)
    return {**found, "repo": repo, "uploaded": True, "url": address}


def upto(story: Story, step: int | None) -> Story:
    """What was known at a step."""
    if step is None:
        return story
    train, evals = (
        [record for record in records if record["step"] <= step]
        for records in (story.train, story.evals)
    )
    return replace(story, train=train, evals=evals)
