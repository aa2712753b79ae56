"""`espalier import SOURCE`: weights from elsewhere as a run, to sample from and to train on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from espalier import console, device
from espalier.errors import MachineError, UserError
from espalier.starting import uncollected
from espalier.units import size

if TYPE_CHECKING:
    from espalier.data.corpus import Corpus
    from espalier.data.tokenizer.base import Tokenizer
    from espalier.experiment import Experiment
    from espalier.pretrained import Foreign
    from espalier.run import Run


def import_(
    source: str = "",
    /,
    *,
    out: Path | None = None,
    corpus: Path | None = None,
    tokenizer: str | None = None,
    recipe: str | None = None,
    n_head: int | None = None,
    all_: Annotated[bool, Parameter(name="--all", negative=())] = False,
) -> dict[str, Any]:
    """Make a run of a model from elsewhere: GPT-2, Pythia, Llama, nanoGPT, nanochat and kin.

    A model of Hugging Face's is compared with transformers' own on the same files; one that
    computes anything else is not saved.

    Example: espalier import gpt2
    Example: espalier import EleutherAI/pythia-160m@step1000 --out runs/pythia-early
    Example: espalier import out/ckpt.pt --corpus data/shakespeare_char --out runs/imported
    Example: espalier import nanochat-students/base-d20 --n-head 10

    Parameters
    ----------
    source
        A hub id, fetched where the Hugging Face cache lacks it; a directory with config.json and
        weights; a ckpt.pt; a .safetensors file in our names, with --recipe.
    out
        The run to make; runs/NAME when left out.
    corpus
        What it was trained on; espalier train --resume goes on from nanoGPT's optimizer then.
    tokenizer
        meta.pkl, a tokenizer.json or a name such as gpt2; left out, the corpus' or one beside it.
    recipe
        Whose model a lone .safetensors file holds.
    n_head
        Heads of a model whose files do not say: nanochat's, nano-deepseek-ocr's step_N.pt.
    all_
        Every model of a family, gpt2 (when left out) or pythia, one after another into --out.
    """
    if all_:
        return every(source or "gpt2", out or Path("runs"))
    if not source:
        raise UserError("say what to import: gpt2, EleutherAI/pythia-160m, a directory, a file")
    with uncollected():
        from espalier import api, pretrained  # noqa: F401 - here with all that they import
    from espalier.data.corpus import Corpus
    from espalier.pretrained import tokenizers

    foreign, where = read(source, recipe, n_head)
    text = Corpus.open(corpus) if corpus else None
    vocab_size = foreign.config.vocab_size
    assert vocab_size is not None
    named = tokenizer or (str(corpus) if corpus else None)
    spelled = tokenizers.find(foreign, named, vocab_size)
    parity = compared(foreign, spelled)
    plan = api.adopt(foreign, str(corpus) if corpus else None, recipe)
    place = out or Path("runs") / slug(source)
    where["weights"] = digest(foreign.weights)
    for line in same(where, place):
        console.warn(line)
    run = save(foreign, plan, spelled.spec(), place, text, where)
    found = facts(foreign, run, resumable=text is not None and foreign.moments is not None)
    for line in [*lines(found), *([] if parity is None else [f"parity: {parity}"])]:
        console.out(line)
    compared_to = None if parity is None else vars(parity)
    return {**found, "parity": compared_to, "weights": where["weights"]}


def read(
    source: str, recipe: str | None, n_head: int | None = None
) -> tuple[Foreign, dict[str, Any]]:
    """The model, and where it comes from; a hub id that is not cached is fetched."""
    from espalier import experiment, pretrained
    from espalier.pretrained import hub, plain

    place, which = Path(source).expanduser(), hub.parse(source)
    if recipe is not None:
        if not place.is_file():
            raise UserError(f"--recipe goes with a .safetensors file; {source} is none")
        found = plain.read(place, experiment.load(recipe).model)
        return found, {"kind": found.kind, "from": source, "recipe": recipe}
    if place.exists() or which is None:
        found = pretrained.read(place, n_head)
        return found, {"kind": found.kind, "from": str(found.path)}
    hub_known(which)
    snapshot = hub.fetch(which)
    found = pretrained.read(snapshot, n_head)
    return found, {
        "kind": found.kind,
        "from": which.name,
        "revision": which.revision,
        "commit": hub.commit(snapshot),
    }


def hub_known(which: Any) -> None:
    """UserError for a bare word that is no known model: a path mistyped, most likely."""
    from espalier.errors import nearest
    from espalier.pretrained import hub, known

    if "/" not in which.name and which.name not in known.names() and not hub.cached(which):
        hint = nearest(which.name, known.names()) or f" Known: {', '.join(known.names())}."
        raise UserError(f"nothing at {which.name}, and no model of that name is known.{hint}")


def slug(source: str) -> str:
    """The last word of an id or a path, with the revision: pythia-160m-step1000."""
    name = source.rstrip("/").rpartition("/")[2].replace("@", "-")
    return Path(name).stem if name.endswith((".pt", ".safetensors")) else name


def compared(foreign: Foreign, tokenizer: Tokenizer) -> Any:
    """The parity report of a model of Hugging Face's; None where there is nothing to compare."""
    from espalier.pretrained import parity

    if foreign.kind not in parity.PUBLISHED or not (foreign.path / "config.json").is_file():
        return None
    prompts = []
    for text in parity.TEXTS:
        try:
            prompts.append(tokenizer.encode(text).tolist())
        except UserError:  # a small vocabulary that cannot spell it; random ids are left
            continue
    found = parity.compare(foreign, prompts)
    parity.require(found, foreign.path)
    return found


def digest(weights: Mapping[str, Any]) -> str:
    """SHA-256 over names and bytes of all tensors, in the order of their names."""
    import hashlib

    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(name.encode("ascii"))
        found.update(weights[name].numpy().tobytes())
    return found.hexdigest()


def same(where: Mapping[str, Any], place: Path) -> list[str]:
    """Warnings: runs beside `place` that were imported as another revision with equal weights.

    Some published revisions of Pythia hold the weights of another step.
    """
    from espalier.durable import read_json

    found = []
    for file in sorted(place.parent.glob("*/environment.json")):
        try:
            other = read_json(file).get("imported") or {}
        except (UserError, AttributeError):
            continue
        named = [one.get(key) for one in (other, where) for key in ("from", "revision")]
        if other.get("weights") == where["weights"] and named[:2] != named[2:]:
            found.append(
                f"{where['from']}@{where.get('revision', '')} has the very weights of "
                f"{other.get('from')}@{other.get('revision', '')} ({file.parent}): one of them is "
                "not what its name says"
            )
    return found


def every(family: str, place: Path) -> dict[str, Any]:
    """All models of a family, after a look at the disk."""
    import shutil

    from espalier.cost import count
    from espalier.nn.gpt import sketch
    from espalier.pretrained import hub, known

    models = []
    for one in known.family(family):
        run = place / slug(one.name)
        if any(run.glob("checkpoints/step-*/MANIFEST.json")):
            console.out(f"{run} is there already")
        else:
            models.append(one)
    numbers = {one.name: count.parameters(sketch(one.config)).total for one in models}
    missing = [one for one in models if not hub.cached(hub.Id(one.name))]
    fetched = sum(numbers[one.name] * one.weight_bytes for one in missing)
    saved = 4 * sum(numbers.values())
    standing = next(
        folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir()
    )
    free = shutil.disk_usage(standing).free
    console.out(
        f"{len(models)} models, {size(fetched)} to fetch, {size(saved)} as runs in {place}; "
        f"{size(free)} free"
    )
    if fetched + saved > free:
        raise MachineError(f"{size(fetched + saved)} do not fit: import them one by one, or --out")
    return {"runs": [import_(one.name, out=place / slug(one.name)) for one in models]}


def save(
    foreign: Foreign,
    plan: Experiment,
    tokenizer: dict[str, Any],
    out: Path,
    corpus: Corpus | None,
    origin: Mapping[str, Any] | None = None,
) -> Run:
    """The run directory, with one checkpoint."""
    from espalier.config import encode
    from espalier.provenance import environment
    from espalier.run import Run

    text = corpus.digest if corpus else None
    origin = origin or {"kind": foreign.kind, "from": str(foreign.path)}
    where = environment(imported=dict(origin), data=text)
    run = Run.create(out, encode(plan), where)
    with run.lock():
        run.speak(tokenizer, foreign.folder)
        run.commit(foreign.step, lambda folder: write(foreign, folder), state(foreign, plan, text))
    return run


def write(foreign: Foreign, folder: Path) -> None:
    """Weights and, where there are any, moments, as our trainer lays them out."""
    import torch

    from espalier.run import MODEL, OPTIMIZER
    from espalier.train import checkpoint

    checkpoint.save(foreign.weights, folder / MODEL)
    if foreign.moments is None:
        return
    held = {}
    for name in foreign.moments.first:
        held[f"{name}.exp_avg"] = foreign.moments.first[name]
        held[f"{name}.exp_avg_sq"] = foreign.moments.second[name]
        held[f"{name}.step"] = torch.tensor(float(foreign.moments.step))
    checkpoint.save(held, folder / OPTIMIZER)


def state(foreign: Foreign, plan: Experiment, text: str | None) -> dict[str, Any]:
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
        "data": text,
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
    return [*said, f"to fine-tune it: espalier train --init {found['run']} data.corpus=DIR"]
