"""`espalier import SOURCE`: weights from elsewhere as a run, to sample from and to train on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier import console, device
from espalier.starting import uncollected

if TYPE_CHECKING:
    from espalier.data.corpus import Corpus
    from espalier.experiment import Experiment
    from espalier.pretrained import Foreign
    from espalier.run import Run


def import_(
    source: Path,
    /,
    *,
    out: Path,
    corpus: Path | None = None,
    tokenizer: str | None = None,
) -> dict[str, Any]:
    """Make a run of nanoGPT's ckpt.pt or of a Hugging Face directory (GPT-2, GPT-NeoX, Pythia).

    Example: espalier import out/ckpt.pt --corpus data/shakespeare_char --out runs/imported

    Parameters
    ----------
    source
        A ckpt.pt, or a directory with one, or with config.json and weights.
    out
        The run to make.
    corpus
        What it was trained on; espalier train --resume goes on from nanoGPT's optimizer then.
    tokenizer
        meta.pkl, a tokenizer.json or a name such as gpt2; left out, the corpus' or one beside it.
    """
    with uncollected():
        from espalier import api, pretrained
    from espalier.data.corpus import Corpus
    from espalier.pretrained import tokenizers

    foreign = pretrained.read(source)
    text = Corpus.open(corpus) if corpus else None
    size = foreign.config.vocab_size
    assert size is not None
    spelled = tokenizers.find(foreign, tokenizer or (str(corpus) if corpus else None), size)
    plan = api.adopt(foreign, str(corpus) if corpus else None)
    run = save(foreign, plan, spelled.spec(), out, text)
    found = facts(foreign, run, resumable=text is not None and foreign.moments is not None)
    for line in lines(found):
        console.out(line)
    return found


def save(
    foreign: Foreign, plan: Experiment, tokenizer: dict[str, Any], out: Path, corpus: Corpus | None
) -> Run:
    """The run directory, with one checkpoint."""
    from espalier.config import encode
    from espalier.durable import write_json
    from espalier.provenance import environment
    from espalier.run import Run

    digest = corpus.digest if corpus else None
    where = environment(imported={"kind": foreign.kind, "from": str(foreign.path)}, data=digest)
    run = Run.create(out, encode(plan), where)
    with run.lock():
        write_json(run.path / "tokenizer.json", tokenizer)
        run.commit(
            foreign.step, lambda folder: write(foreign, folder), state(foreign, plan, digest)
        )
    return run


def write(foreign: Foreign, folder: Path) -> None:
    """Weights and, where there are any, moments, as our trainer lays them out."""
    import torch
    from safetensors.torch import save_file

    from espalier.run import MODEL, OPTIMIZER

    save_file(dict(foreign.weights), folder / MODEL)
    if foreign.moments is None:
        return
    held = {}
    for name in foreign.moments.first:
        held[f"{name}.exp_avg"] = foreign.moments.first[name]
        held[f"{name}.exp_avg_sq"] = foreign.moments.second[name]
        held[f"{name}.step"] = torch.tensor(float(foreign.moments.step))
    save_file(held, folder / OPTIMIZER)


def state(foreign: Foreign, plan: Experiment, digest: str | None) -> dict[str, Any]:
    """What the trainer keeps beside its tensors; the order of the data goes on at this step."""
    from espalier.train import checkpoint, resume
    from espalier.train.progress import Progress

    rows = plan.data.batch_size * plan.train.gradient_accumulation_steps
    progress = Progress(
        step=foreign.step,
        sample=foreign.step * rows,
        tokens=foreign.step * rows * plan.model.block_size,
        best_val_loss=foreign.val_loss,
        best_step=foreign.step if foreign.val_loss is not None else None,
    )
    return {
        **progress.state(),
        "skipped": 0,
        "scale": {"value": 1.0, "calm": 0},
        "data": digest,
        "surroundings": resume.surroundings(device.choose()),
        "random": checkpoint.randomness(),
    }


def facts(foreign: Foreign, run: Run, *, resumable: bool) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "kind": foreign.kind,
        "parameters": sum(tensor.numel() for tensor in foreign.weights.values()),
        "step": foreign.step,
        "val_loss": foreign.val_loss,
        "resumable": resumable,
    }


def lines(found: dict[str, Any]) -> list[str]:
    loss = "" if found["val_loss"] is None else f", validation loss {found['val_loss']:.4f}"
    said = [
        f"{found['kind']}: {found['parameters']:,} parameters, step {found['step']}{loss}",
        f"run: {found['run']}  (espalier sample {found['run']})",
    ]
    if found["resumable"]:
        return [*said, f"training goes on: espalier train --resume {found['run']}"]
    if found["kind"] in {"nanogpt", "wigglegpt", "biogpt"}:
        return [*said, "to train on from its optimizer, import it with --corpus DIR"]
    return [*said, f"to train on from these weights: train.init={found['run']}"]
