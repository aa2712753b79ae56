"""Weights of others in place of fresh ones: a run's, or an encoder of images alone."""

from pathlib import Path

from espalier import pretrained
from espalier.config import decode
from espalier.data.corpus import Corpus
from espalier.data.tokenizer.base import Tokenizer
from espalier.errors import MachineError, UserError
from espalier.experiment import Experiment, open_run, tokenizer_of, weights_of
from espalier.nn.gpt import GPT
from espalier.nn.slots import Front
from espalier.pretrained import deepseek_ocr, tokenizers
from espalier.run import BASE, Run
from espalier.train import checkpoint, lora, tuning
from espalier.train.parallel.ranks import here
from espalier.train.settings import TrainConfig

FRONT = "trunk.front."
LOOKED_AT = 4096  # tokens of a corpus, to see whether a model can read them
OTHER = 0.1  # the share from which they are another tokenizer's


def fill(model: GPT, config: TrainConfig) -> None:
    """As `train.init` and `train.init_front` say; UserError for what does not fit."""
    if config.init is not None:
        fill_from(model, config.init)
    if config.init_front is not None:
        if model.trunk.front is None:
            raise UserError("train.init_front: this model reads no images; set model.front")
        fill_front(model.trunk.front, config.init_front)


def notes(config: TrainConfig, corpus: Corpus) -> list[str]:
    """A warning where ids of `corpus` are other text to the model that `train.init` names.

    Silence where they are the same, or where the weights came without a tokenizer.
    """
    if config.init is None:
        return []
    try:
        theirs, ours = _tokenizer_of(config.init), corpus.tokenizer
    except (UserError, MachineError):
        return []
    seen = corpus.train.gather([0], min(LOOKED_AT, len(corpus.train)))[0].tolist()
    known = [i for i in seen if i < theirs.vocab_size]
    other = {i for i in set(known) if theirs.decode([i]) != ours.decode([i])}
    if sum(i in other for i in known) <= OTHER * len(known):
        return []
    said, read = ours.decode(known[:12]), theirs.decode(known[:12])
    warning = (
        f"{corpus.path} has other tokens than train.init={config.init}, which reads {said!r} as "
        f"{read!r}. Prepare the text with its tokenizer: espalier prepare --tokenizer gpt2, say"
    )
    return [warning]


def _tokenizer_of(source: str) -> Tokenizer:
    if (Path(source) / "config.yaml").is_file():
        run = Run.open(source)
        return tokenizer_of(run, decode(Experiment, run.config))
    found = pretrained.read(source)
    return tokenizers.find(found, None, found.config.vocab_size or 0)


def base(model: GPT, config: TrainConfig, run: Run, *, resume: bool) -> dict[str, str]:
    """The weights beside adapters, kept in the run and known by their hash; nothing without."""
    if not lora.adapters(model):
        return {}
    ranks = here()
    if ranks.tell(BASE if resume and (run.path / BASE).is_file() else ""):  # one looks for all
        return {"base": lora.load_base(model, run.path)}
    if resume:
        fill(model, config)
    return {"base": ranks.tell(lora.save_base(model, run.path) if ranks.leads else "")}


def fill_from(model: GPT, source: str) -> None:
    """All but adapters; a front that `source` has not stays as it is."""
    own = lora.adapters(model)
    mine = {name: t for name, t in checkpoint.tensors(model).items() if name not in own}
    theirs = tuning.shortened(checkpoint.tensors(weights_of(source)), model)
    theirs = tuning.widened(theirs, model)
    if not any(name.startswith(FRONT) for name in theirs):
        mine = {name: t for name, t in mine.items() if not name.startswith(FRONT)}
    checkpoint.fill(mine, theirs, f"train.init={source}")


def fill_front(front: Front, source: str) -> None:
    """From a run, or whatever holds an encoder in the official names; nothing, or all of it.

    `SAM+CLIP`, two models of `transformers`, bring what they have; the rest keeps its start.
    """
    held = front.state_dict()
    if "+" in source and not Path(source).exists():
        sam, _, clip = source.partition("+")
        theirs = deepseek_ocr.borrowed(pretrained.locate(sam), pretrained.locate(clip), front)
        mine = {name: held[name] for name in theirs}
        checkpoint.fill(mine, theirs, f"train.init_front={source}")
        return
    place = pretrained.locate(source)
    if not (place / "config.yaml").is_file():
        theirs = deepseek_ocr.read(place, front)
    elif (place / deepseek_ocr.ENCODER).is_file():
        theirs = deepseek_ocr.read(place / deepseek_ocr.ENCODER, front)
    else:
        found = open_run(place)[0].trunk.front
        if found is None:
            raise UserError(f"train.init_front={source}: its model reads no images")
        theirs = dict(found.state_dict())
    mine = {name: t for name, t in held.items() if name in theirs or not deepseek_ocr.apart(name)}
    checkpoint.fill(mine, theirs, f"train.init_front={source}")
