"""The page: headline numbers, curves, samples, configuration, provenance, caveats."""

import math
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import yaml

from espalier.report import analysis, figures, headline, html, pruning
from espalier.report.figures import GREEN, GREY, RUST, Line
from espalier.report.reading import Story, finite, thin
from espalier.units import size

SHOWN_SAMPLES = 4
LONGEST_SAMPLE = 2000  # characters


def page(story: Story) -> str:
    """One self-contained HTML document; nothing in it points outside."""
    title = story.path.resolve().name
    sections = [
        ("", _numbers(story)),
        ("Loss", _loss(story)),
        ("Along the way", _along(story)),
        ("Samples", _samples(story)),
        ("Pruning", _pruning(story)),
        ("Analysis", _analysis(story)),
        ("Results", _results(story)),
        ("Events", _events(story)),
        ("Configuration", _configuration(story)),
        ("Environment", _table(story.environment)),
        ("Files and hashes", _hashes(story)),
        ("What this does not show", html.listed(caveats(story))),
    ]
    return html.document(title, headline.sentence(story), sections)


def caveats(story: Story) -> Iterator[str]:
    """What a reader might conclude and should not."""
    planned = _at(story.config, "train", "max_iters")
    if isinstance(planned, int) and story.last_step < planned:
        yield (
            f"The end: the run stands at step {story.last_step:,} of {planned:,}, "
            "so its learning rate has not finished its course."
        )
    if not story.evals:
        yield "Generalisation: nothing was measured on held-out text."
    elif windows := _at(story.config, "evaluate", "eval_iters"):
        yield (
            f"The validation loss of the whole split: each is an estimate from {windows} windows "
            "(evaluate.eval_iters)."
        )
    yield (
        f"Chance: this is one run with one seed ({story.config.get('seed', 'unknown')}). Another "
        "seed gives another number; a difference smaller than that spread means nothing."
    )
    yield (
        "Merit: nothing here is compared with anything. Losses per token compare only between runs "
        "with the same tokenizer and the same validation text."
    )
    yield (
        "Other text: validation text comes from the same source as training text and shares its "
        "habits."
    )
    yield "Typical quality: samples stand as they came, unselected, but they are few."
    yield "Speed elsewhere: times hold for this machine and whatever else it was doing."


def _numbers(story: Story) -> str:
    return html.numbers((one.name, one.value, one.note) for one in headline.numbers(story))


def _loss(story: Story) -> str:
    lines = [Line("training", *thin(*finite(story.train, "loss")), GREY)]
    lines.append(Line("validation", *finite(story.evals, "val_loss"), GREEN, dots=True))
    lines = [line for line in lines if line.steps]
    if not lines:
        return ""
    return _figure("Loss per token (nats)", lines, (8.2, 3.6), zero=False)


def _along(story: Story) -> str:
    wanted = {
        "lr": ("Learning rate", RUST),
        "tokens_per_s": ("Tokens per second", GREEN),
        "grad_norm": ("Gradient norm", GREY),
        "mfu": ("Model FLOPs utilisation", RUST),
    }
    drawn = []
    for key, (title, color) in wanted.items():
        steps, values = thin(*finite(story.train, key), most=400)
        if len(steps) > 1:
            drawn.append(_figure(title, [Line(title, steps, values, color)], (4, 2.3), zero=True))
    return f'<div class="pair">{"".join(drawn)}</div>' if drawn else ""


def _figure(title: str, lines: list[Line], inches: tuple[float, float], *, zero: bool) -> str:
    return f"<figure>{figures.curves(title, lines, inches, zero=zero)}</figure>"


def _samples(story: Story) -> str:
    """The last ones, newest first; then how it wrote at the start."""
    newest = list(story.samples)[::-1]
    chosen = newest[:SHOWN_SAMPLES]
    if len(newest) > len(chosen):
        chosen[-1] = newest[-1]
    return "".join(
        f'<p class="label">step {record.get("step", "?"):,}</p>'
        f"<pre>{escape(str(record.get('text', ''))[:LONGEST_SAMPLE])}</pre>"
        for record in chosen
    )


def _pruning(story: Story) -> str:
    found = story.results.get("prune")
    return pruning.section(story.path.resolve().name, found) if found else ""


def _analysis(story: Story) -> str:
    """The figures of each view that was looked at."""
    return "".join(
        f"<figure>{drawn.svg}</figure>"
        for name, content in story.results.items()
        if name.startswith("analyze-")
        for drawn in analysis.figures(content).values()
    )


def _results(story: Story) -> str:
    return "".join(
        f'<p class="label">{escape(name)}</p>{_table(content)}'
        for name, content in story.results.items()
        if name != "prune" and not name.startswith("analyze-")  # have sections of their own
    )


def _events(story: Story) -> str:
    return html.listed(
        f"step {record.get('step')}: {record.get('message')}" for record in story.events
    )


def _configuration(story: Story) -> str:
    text = yaml.safe_dump(dict(story.config), sort_keys=False, allow_unicode=True)
    return (
        f"<details open><summary>config.yaml, resolved</summary><pre>{escape(text)}</pre></details>"
    )


def _hashes(story: Story) -> str:
    if not story.checkpoints:
        return ""
    newest = escape(story.checkpoints[-1].name)
    rows = {
        name: f"{size(note['size'])}, SHA-256 {note['sha256']}"
        for name, note in story.manifest.items()
    }
    return (
        f'<p class="label">newest of {len(story.checkpoints)} checkpoints: {newest}</p>'
        + _table(rows)
    )


def _table(content: Any) -> str:
    rows = list(_flat(content))
    if not rows:
        return ""
    cells = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows)
    return f"<table>{cells}</table>"


def _flat(content: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as dotted rows."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    elif content is not None and path:
        yield path, _words(path, content)


def _words(path: str, value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value)
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return size(value) if path.endswith("bytes") else f"{value:,}"
    return str(value)


def _at(config: Mapping[str, Any], *path: str) -> Any:
    node: Any = config
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node
