"""The root of a recipe, and the way to it: defaults, parent, file, overrides."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from espalier import device as machine
from espalier import pretrained, translate
from espalier.config import Config, decode, encode, refine
from espalier.cost import count
from espalier.data import tokenizer
from espalier.data.corpus import Corpus
from espalier.data.settings import DataConfig
from espalier.data.tokenizer.base import Tokenizer
from espalier.durable import read_json
from espalier.errors import ConfigError, MachineError, UserError, nearest
from espalier.evaluate.settings import EvaluateConfig
from espalier.nn.gpt import GPT, GPTConfig, make, sketch
from espalier.run import STATE, TOKENIZER, Run, verify
from espalier.train import checkpoint, lora
from espalier.train.settings import TrainConfig
from espalier.tree import Source, merge, override, parse_value, read_yaml
from espalier.units import size

RECIPES = Path(__file__).parent / "recipes"


class Experiment(Config):
    """Model, data, training and evaluation: everything that decides a run."""

    seed: int = Field(1337, ge=0, lt=2**63)
    model: GPTConfig = GPTConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @property
    def pixels(self) -> int:
        """A side of an image as the model reads it; 0 where it reads none."""
        return self.data.images.side if self.model.front else 0


def shipped() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(file.stem for file in RECIPES.glob("*.yaml"))


def find(recipe: str) -> Path:
    """A recipe's file: a path that exists, or a shipped name."""
    file = Path(recipe)
    if file.suffix in {".yaml", ".yml", ".py"} or "/" in recipe:
        if not file.is_file():
            raise ConfigError(f"no recipe file {recipe}")
        return file
    if recipe not in shipped():
        hint = nearest(recipe, shipped()) or f" Known: {', '.join(shipped())}."
        raise ConfigError(f"no recipe named '{recipe}'.{hint}")
    return RECIPES / f"{recipe}.yaml"


def load(recipe: str, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment of a recipe (shipped name, .yaml, nanoGPT-style .py) with overrides on top.

    An override is `path=value`, or nanoGPT's `--key=value`. Raises ConfigError that names the file
    and line, or the override, at fault.
    """
    file = find(recipe)
    if file.suffix == ".py":
        tree = _from_python(file, [pair for text in overrides for pair in pairs(text)])
    else:
        tree = encode(Experiment())
        for source, where in _chain(file):
            tree = _layer(tree, source, where)
    return apply(decode(Experiment, tree), overrides)


def apply(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """`experiment` with each override laid on in turn."""
    tree = encode(experiment)
    for text in overrides:
        for path, value in pairs(text):
            experiment = decode(Experiment, override(tree, path, value))
            tree = encode(experiment)
    return experiment


def with_vocabulary(experiment: Experiment) -> Experiment:
    """The experiment with `model.vocab_size` from its corpus, where the recipe leaves it out."""
    if experiment.model.vocab_size is not None or experiment.data.corpus is None:
        return experiment
    found = Corpus.open(experiment.data.corpus).vocab_size
    return refine(experiment, {"model": {"vocab_size": found}})


def fitted_to(experiment: Experiment, corpus: Corpus) -> Experiment:
    """With the corpus' vocabulary where the model leaves it open, and a mixture's first corpus."""
    size = experiment.model.vocab_size
    if experiment.data.corpus is None:
        experiment = refine(experiment, {"data": {"corpus": experiment.data.mixture[0].corpus}})
    if size is None:
        return refine(experiment, {"model": {"vocab_size": corpus.vocab_size}})
    if size < corpus.vocab_size:
        raise UserError(
            f"model.vocab_size={size} is smaller than the vocabulary of {corpus.path} "
            f"({corpus.vocab_size}); leave it out to take the corpus' own"
        )
    return experiment


def build(experiment: Experiment, device: str = "cpu") -> GPT:
    """The experiment's model, filled from its seed."""
    return make(experiment.model, experiment.seed, device)


def require_memory(experiment: Experiment, device: str) -> None:
    """MachineError, before anything is allocated, where training cannot fit on `device`.

    Counted is what no precision or recomputation saves: fp32 weights, gradients and one moment, and
    for each token of a micro-batch its ids and the input of every layer. Only a model that may be
    large is sketched for this; that costs half a second.
    """
    shape, rows = experiment.model, experiment.data.batch_size
    assert shape.vocab_size is not None
    batch = rows * shape.block_size * (16 + 2 * shape.n_layer * shape.n_embd)
    free = _free(device)
    rough = 12 * shape.n_embd * (12 * shape.n_layer * shape.n_embd + shape.vocab_size)
    if 8 * (rough + batch) < free:
        return
    weights = 12 * count.parameters(sketch(shape)).total
    if weights + batch <= free:
        return
    lower = "model.n_layer, model.n_embd or model.vocab_size"
    if batch > weights:
        lower = "data.batch_size (train.gradient_accumulation_steps makes up for it) or block_size"
    raise MachineError(
        f"training needs at least {size(weights + batch)}, {size(free)} are free on {device}: "
        f"{size(weights)} for weights, gradients and moments, {size(batch)} for {rows:,} windows "
        f"of {shape.block_size:,} tokens. Lower {lower}"
    )


def _free(device: str) -> int:
    if not device.startswith("cuda"):
        return machine.memory()[1]
    import torch

    return int(torch.cuda.mem_get_info(device)[0])


def open_run(path: str | Path, step: int | None = None) -> tuple[GPT, Experiment, Tokenizer, Run]:
    """The model of a run at its newest sound checkpoint (or at `step`), and what belongs to it."""
    run = Run.open(path)
    folder = run.latest() if step is None else run.checkpoint(step)
    problem = verify(folder) if step is not None and folder and folder.is_dir() else None
    if problem:
        raise UserError(f"{folder}: {problem}")
    if run.skipped and folder is None:
        raise UserError(f"{path} has no sound checkpoint: {run.skipped[0]}")
    if folder is None:
        raise UserError(f"{path} has no checkpoint yet; train it: espalier train --resume {path}")
    experiment = decode(Experiment, run.config)
    model = experiment.model.build()
    load_weights(model, experiment, run, folder)
    return model, experiment, tokenizer_of(run, experiment), run


def load_weights(model: GPT, experiment: Experiment, run: Run, folder: Path) -> None:
    """Fill a model from a checkpoint of its run, adapters merged into the weights beside them."""
    base = read_json(folder / STATE).get("base")
    if base is None or experiment.train.lora is None:
        checkpoint.load_model(model, folder)
        return
    lora.adapt(model, experiment.train.lora, experiment.seed)
    lora.load_base(model, run.path, base)
    checkpoint.load_model(model, folder)
    lora.merge(model)


def begun_from(experiment: Experiment, source: str) -> Experiment:
    """`experiment` with the model of `source`, whose weights it starts from.

    `source` is a run, nanoGPT's ckpt.pt, a Hugging Face directory or a cached id.
    """
    if (Path(source) / "config.yaml").is_file():
        shape = decode(Experiment, Run.open(source).config).model
    else:
        shape = pretrained.read(source).config
    front = shape.front or experiment.model.front  # a recipe's own reads images for any model
    tree = encode(shape) | {"front": None if front is None else encode(front)}
    return refine(experiment, {"model": tree, "train": {"init": source}})


def with_room(experiment: Experiment) -> Experiment:
    """The experiment with ids for every token of its corpus, where its model is `train.init`'s."""
    if experiment.data.corpus is None or experiment.model.vocab_size is None:
        return experiment
    needed = Corpus.open(experiment.data.corpus).vocab_size
    most = max(needed, experiment.model.vocab_size)
    return refine(experiment, {"model": {"vocab_size": most}})


def weights_of(source: str | Path) -> GPT:
    """The model of a run, of nanoGPT's ckpt.pt, or of a Hugging Face directory or id."""
    if (Path(source) / "config.yaml").is_file():
        return open_run(source)[0]
    return pretrained.read(source).build()


def tokenizer_of(run: Run, experiment: Experiment) -> Tokenizer:
    """The tokenizer that the run keeps, or else its corpus'."""
    kept = run.path / TOKENIZER
    if kept.is_file():
        return tokenizer.load(read_json(kept))
    if experiment.data.corpus is None:
        raise UserError(f"{run.path} has no tokenizer.json and names no corpus")
    return Corpus.open(experiment.data.corpus).tokenizer


def pairs(text: str) -> list[tuple[str, Any]]:
    """An override as paths and values: one `path=value`, or what a nanoGPT `--key=value` means."""
    if text.startswith("--"):
        key, _, value = text[2:].partition("=")
        if not _:
            raise ConfigError(f"{text}: write --{key}=VALUE")
        if "." in key:
            return [(key, parse_value(value))]
        return translate.flag(key, translate.literal(value), f"--{key}")
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"'{text}' is not an override; write path=value, such as seed=7")
    return [(path, parse_value(value))]


def _from_python(file: Path, later: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """nanoGPT's defaults with the literals of a config/*.py on top.

    With init_from, here or `later`, the model is that one's, as nanoGPT has it.
    """
    tree, said = encode(load("nanogpt")), translate.read(file)
    source = dict([*said, *later]).get("train.init")
    if source is not None:
        tree = encode(begun_from(decode(Experiment, tree), str(source)))
    for path, value in said:
        tree = encode(decode(Experiment, override(tree, path, value), where=lambda _: f"{file}: "))
    return tree


def _chain(file: Path, below: tuple[Path, ...] = ()) -> list[tuple[Source, Path]]:
    """The recipe's ancestors and itself, oldest first."""
    if file.resolve() in below:
        raise ConfigError(f"{file}: extends itself")
    source = read_yaml(file)
    parent = source.tree.pop("extends", None)
    if parent is None:
        return [(source, file)]
    if not isinstance(parent, str):
        raise ConfigError(f"{file}:{source.lines[('extends',)]}: extends takes one recipe")
    beside = file.parent / parent
    try:
        found = beside if beside.is_file() else find(parent.removesuffix(".yaml"))
    except ConfigError as error:
        raise ConfigError(f"{file}:{source.lines[('extends',)]}: extends: {error}") from None
    return [*_chain(found, (*below, file.resolve())), (source, file)]


def _layer(tree: dict[str, Any], source: Source, file: Path) -> dict[str, Any]:
    def where(path: tuple[str, ...]) -> str:
        near = [path[:n] for n in range(len(path), 0, -1) if path[:n] in source.lines]
        return f"{file.name}:{source.lines[near[0]]}: " if near else f"{file.name}: "

    return encode(decode(Experiment, merge(tree, source.tree), where=where))
