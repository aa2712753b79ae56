"""A model card: what a run is, what it learned from, what it reached, and where it ends."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

from espalier.report.figures import GREEN, RUST, drawing, over_steps
from espalier.report.reading import Story, finite, thin
from espalier.tree import dump

CURVES = "loss.png"
ENCODER = "encoder.safetensors"  # as in runs; its own module would import torch
LIMITS = (
    "A small model made for research. It states falsehoods fluently and repeats what its corpus "
    "holds, biases and private facts included; it was tuned for no task and for no safety. Nobody "
    "should rely on what it writes."
)


def card(story: Story, facts: Mapping[str, Any], repo: str, *, drawn: bool) -> str:
    """README.md. `facts` are of the export; `drawn` says that CURVES lies beside it."""
    blocks = [
        _head(facts),
        f"# {repo.rpartition('/')[2]}",
        f"{_size(story)} Trained and exported with Espalier.",
        "## How to load",
        _loading(facts, repo),
        "## Data",
        "\n".join(_data(story)),
        "## Training",
        "\n".join(_training(story)),
        *([f"![loss while training]({CURVES})"] if drawn else []),
        "## Metrics",
        "\n".join(_metrics(story)),
        "## Limits",
        f"{LIMITS} It sees at most {story.config['model']['block_size']:,} tokens.",
        "## Files",
        "\n".join(["| file | SHA-256 |", "|---|---|", *_files(facts)]),
        "## Recipe",
        f"```yaml\n{dump(_bare(story.config))}```",
    ]
    return "\n\n".join(blocks) + "\n"


def curves(story: Story) -> bytes | None:
    """Training and validation loss as PNG; None for a run that has no curve."""
    train, val = finite(story.train, "loss"), finite(story.evals, "val_loss")
    if len(train[0]) + len(val[0]) < 2:
        return None
    with drawing("loss", (7.0, 3.2)) as (figure, axes):
        if train[0]:
            axes.plot(*thin(*train), color=GREEN, linewidth=1.1, label="training")
        if val[0]:
            axes.plot(*val, color=RUST, linewidth=1.6, marker="o", markersize=3, label="validation")
        over_steps(axes)
        axes.legend(frameon=False, loc="upper right")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
        return buffer.getvalue()


def _head(facts: Mapping[str, Any]) -> str:
    tags = ["espalier", *(["custom_code"] if facts["kind"] == "own" else [facts["kind"]])]
    task = "image-text-to-text" if ENCODER in facts["files"] else "text-generation"
    head = {"library_name": "transformers", "pipeline_tag": task, "tags": tags}
    return f"---\n{dump(head)}---"


def _size(story: Story) -> str:
    model = story.config["model"]
    return (
        f"A language model of {model['n_layer']} layers, {model['n_embd']} wide, "
        f"{model['n_head']} heads, a vocabulary of {model['vocab_size']:,} and a context of "
        f"{model['block_size']:,} tokens."
    )


def _loading(facts: Mapping[str, Any], repo: str) -> str:
    own = facts["kind"] == "own"
    trust = ", trust_remote_code=True" if own else ""
    spoken = "tokenizer.json" in facts["files"]
    code = ["from transformers import AutoModelForCausalLM" + (", AutoTokenizer" if spoken else "")]
    code += ["", f'model = AutoModelForCausalLM.from_pretrained("{repo}"{trust})']
    if spoken:
        code += [
            f'tokenizer = AutoTokenizer.from_pretrained("{repo}")',
            'ids = tokenizer("\\n", return_tensors="pt").input_ids',
            "print(tokenizer.decode(model.generate(ids, max_new_tokens=100, do_sample=True)[0]))",
        ]
    text = "```python\n" + "\n".join(code) + "\n```"
    if own:
        text += "\n\nThe model is defined in `modeling_espalier.py`, which needs torch alone."
    if ENCODER in facts["files"]:
        text += (
            "\n\nIt reads images: `forward` and `generate` take `images` and `slots`, as told in "
            f"`modeling_espalier.py`. `{ENCODER}` is its encoder alone, in DeepSeek-OCR's names."
        )
    if not spoken:
        text += "\n\nIts tokenizer is of a kind that `tokenizer.json` cannot hold."
    return text


def _data(story: Story) -> Iterator[str]:
    corpus, data = story.config["data"].get("corpus"), story.environment.get("data")
    yield f"* corpus: {_bare(corpus) or 'not noted'}"
    if data:
        yield f"* its digest: `{data}`"
    if imported := story.environment.get("imported"):
        yield f"* weights imported from {imported['kind']}"


def _training(story: Story) -> Iterator[str]:
    train, data, where = story.config["train"], story.config["data"], story.environment
    batch = data["batch_size"] * train["gradient_accumulation_steps"]
    yield f"* {story.last_step:,} steps of {batch:,} windows, seed {story.config['seed']}"
    yield f"* optimizer {train['optimizer']['name']}, learning rate {train['learning_rate']:g}"
    yield f"* espalier {where.get('espalier')}, torch {where.get('torch')}, {where.get('time', '')}"
    if commit := where.get("commit"):
        yield f"* commit `{commit}`"


def _metrics(story: Story) -> Iterator[str]:
    steps, losses = finite(story.evals, "val_loss")
    if losses:
        best = min(range(len(losses)), key=losses.__getitem__)
        yield f"* validation loss {losses[-1]:.4f} at step {steps[-1]:,.0f}"
        yield f"* best {losses[best]:.4f} at step {steps[best]:,.0f}"
    steps, losses = finite(story.train, "loss")
    if losses:
        yield f"* training loss {losses[-1]:.4f} at step {steps[-1]:,.0f}"
    if not story.train and not story.evals:
        yield "* none were measured here"


def _files(facts: Mapping[str, Any]) -> list[str]:
    return [f"| {name} | `{digest}` |" for name, digest in sorted(facts["files"].items())]


def _bare(value: Any) -> Any:
    """A configuration with the last word of each path that only its own machine has."""
    if isinstance(value, Mapping):
        return {key: _bare(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_bare(item) for item in value]
    if isinstance(value, str) and re.match(r"/|~|\\\\|[A-Za-z]:[\\/]", value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value
