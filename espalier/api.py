"""The package from Python: models opened by path, built from recipes, and asked for text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from espalier import experiment, pretrained, translate
from espalier.config import encode, refine
from espalier.data import images
from espalier.data.chat import Speaker, Template, kept
from espalier.data.corpus import Corpus
from espalier.data.tokenizer.base import Tokenizer
from espalier.engine.chat import Chat
from espalier.engine.generate import Options
from espalier.engine.sampling import Sampling
from espalier.engine.speculate import AHEAD, Draft
from espalier.engine.text import Session
from espalier.engine.weights import Weights, pack
from espalier.engine.window import Rule
from espalier.errors import ConfigError, UserError
from espalier.experiment import Experiment
from espalier.nn.gpt import GPT
from espalier.pretrained import tokenizers
from espalier.run import CHAT, MANIFEST, Run
from espalier.train.setup import check_device

# Of the machine and the session that trained, not of the experiment.
LEFT_BEHIND = {"init_from", "dataset", "dtype", "compile", "eval_only", "wandb_log"}

# The recipe that says how a kind of checkpoint is trained, where its own settings do not.
TRAINED_BY = {"nanogpt": "nanogpt", "wigglegpt": "nanogpt", "biogpt": "biogpt-reference"}


class Loaded:
    """A model ready to use, and what is known about it.

    `model(ids)` gives logits [batch, time, vocab]; `config` is the whole experiment; `run` is None
    for what comes from elsewhere, which lies in `folder`.
    """

    def __init__(
        self,
        model: GPT,
        config: Experiment,
        find_tokenizer: Callable[[], Tokenizer],
        run: Run | None = None,
        folder: Path | None = None,
    ):
        self.model, self.config, self.run = model, config, run
        self._find_tokenizer = find_tokenizer
        self.folder = folder if run is None else run.path

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Looked for when first asked for: UserError or MachineError where there is none."""
        return self._find_tokenizer()

    @cached_property
    def session(self) -> Session:
        """The model and its tokenizer, speaking text."""
        return Session(self.model, self.tokenizer, self.config.model.block_size)

    @cached_property
    def template(self) -> Template | None:
        """How the conversations are written that it was tuned on; None where it was not."""
        return None if self.folder is None else kept(self.folder / CHAT)

    @cached_property
    def chat(self) -> Chat:
        """The model in conversation, as its run was tuned. UserError for one that was not."""
        if self.template is None:
            raise UserError("this model was trained on no conversations: it has no chat.json")
        speaker = Speaker(self.template, self.tokenizer)
        return Chat(self.model, speaker, self.config.model.block_size)

    def views(self, file: str | Path, mode: str | int | None = None) -> images.Views:
        """An image file as the model reads it: in the mode of its training, unless one is named."""
        how = images.mode(mode or self.image_mode)
        views = images.views(images.read(Path(file)), how)
        device = next(self.model.parameters()).device
        whole, tiles = views
        return images.Views(whole.to(device), None if tiles is None else tiles.to(device))

    @property
    def image_mode(self) -> str | int:
        """As the run's configuration has it, or its first corpus with images, or base."""
        data = self.config.data
        if data.images.mode is not None:
            return data.images.mode
        places = filter(None, (data.corpus, *(one.corpus for one in data.mixture)))
        metas = (Corpus.open(place).meta for place in places)
        found: str | int = next((m["images"]["mode"] for m in metas if "images" in m), "base")
        return found

    def packed(self, weights: Weights) -> Loaded:
        """The same, ready for fast generation with weights kept so; made anew at each call.

        Hooks put on `model` later do not reach it; what is done to its weights does in float32,
        which shares them, and in bf16 and int8 only for large ones that cannot be repacked.
        """
        return Loaded(
            pack(self.model, weights), self.config, lambda: self.tokenizer, self.run, self.folder
        )

    def speculating(self, draft: Loaded, ahead: int = AHEAD) -> Session:
        """A session in which the smaller `draft` proposes `ahead` tokens at a time."""
        if draft.tokenizer.spec() != self.tokenizer.spec():
            raise UserError("the draft has another tokenizer; both must spell the same ids")
        size = min(self.config.model.block_size, draft.config.model.block_size)
        guess = Draft(draft.model, size, ahead)
        return Session(self.model, self.tokenizer, self.config.model.block_size, guess)

    def generate(
        self,
        prompt: str | Sequence[str] = "",
        max_new_tokens: int = 256,
        *,
        num_samples: int = 1,
        stop: Sequence[str] = (),
        rule: str = "crop",
        weights: Weights | None = None,
        draft: Loaded | None = None,
        **sampling: Any,
    ) -> str | list[str]:
        """The text that follows: one string, or a list for several prompts or samples.

        A list has `num_samples` texts for each prompt, in order. `rule` says what the model sees
        past its block (`crop`, `refill:N`); `weights` (float32, bf16, int8) are packed for this
        call, `packed` keeps them; `draft` is a smaller model that proposes tokens for this one to
        accept, from the same distribution; `sampling` are the fields of `engine.Sampling`:
        temperature, top_k, top_p, min_p, repetition_penalty, penalty, score, seed, rng.
        """
        unknown = set(sampling) - set(Sampling.__dataclass_fields__)
        if unknown:
            raise UserError(f"generate has no option {', '.join(sorted(unknown))}")
        options = Options(
            max_new_tokens,
            num_samples=num_samples,
            sampling=Sampling(**sampling),
            rule=Rule.parse(rule),
        )
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        own = self if weights is None else self.packed(weights)
        session = own.session if draft is None else own.speculating(draft)
        texts = [one.text for one in session.complete(prompts, options, stop)]
        return texts[0] if isinstance(prompt, str) and num_samples == 1 else texts


def load(
    path: str | Path,
    *,
    step: int | None = None,
    tokenizer: str | None = None,
    device: str | None = None,
) -> Loaded:
    """Open a run, one of its checkpoints, nanoGPT's ckpt.pt, a Hugging Face directory or its id.

    `step` chooses a checkpoint of a run (the newest); `tokenizer` takes the place of the one that
    came along: a name, a tokenizer.json, nanoGPT's meta.pkl or a corpus; `device` is the best one
    found. Raises UserError, one line, for anything that is no model.
    """
    place = pretrained.locate(path)
    if (place / MANIFEST).is_file() and step is None:
        place, step = _run_and_step(place)
    where = check_device(device or "auto")
    if (place / "config.yaml").is_file():
        model, config, own, run = experiment.open_run(place, step)
        return Loaded(
            model.to(where).eval(),
            config,
            lambda: own if tokenizer is None else tokenizers.find(None, tokenizer, _ids(config)),
            run,
        )
    foreign = pretrained.read(place)
    if step is not None:
        raise UserError(f"{place} is no run: it has no step {step} to choose")
    config = adopt(foreign)
    return Loaded(
        foreign.build().to(where),
        config,
        lambda: tokenizers.find(foreign, tokenizer, _ids(config)),
        folder=foreign.folder,
    )


def _run_and_step(folder: Path) -> tuple[Path, int]:
    """Where a checkpoint folder belongs."""
    run, number = folder.resolve().parent.parent, folder.name.rpartition("-")[2]
    if not number.isdigit() or not (run / "config.yaml").is_file():
        raise UserError(f"{folder} is a checkpoint away from its run: give RUN/checkpoints/STEP")
    return run, int(number)


def _ids(config: Experiment) -> int:
    assert config.model.vocab_size is not None
    return config.model.vocab_size


def build(recipe: str, overrides: Sequence[str] = (), device: str = "cpu") -> GPT:
    """The model of a recipe (shipped name or file) with `path=value` overrides, from its seed."""
    plan = experiment.with_vocabulary(experiment.load(recipe, overrides))
    return experiment.build(plan, device=device)


def adopt(
    foreign: pretrained.Foreign, corpus: str | None = None, recipe: str | None = None
) -> Experiment:
    """The experiment of weights from elsewhere, so that training can go on.

    The model is as it is; training settings come along as far as they translate, or are those of
    `recipe`.
    """
    recipe = recipe or TRAINED_BY.get(foreign.kind)
    plan = experiment.load(recipe) if recipe else Experiment()
    for key, value in foreign.settings.items():
        if key in translate.known() and key not in LEFT_BEHIND:
            for path, setting in translate.flag(key, value, str(foreign.path)):
                plan = _set(plan, path, setting)
    data: dict[str, Any] = {"corpus": corpus}
    if foreign.image_mode is not None:
        data["images"] = {"mode": foreign.image_mode}
    return refine(plan, {"model": encode(foreign.config), "data": data})


def _set(plan: Experiment, path: str, value: Any) -> Experiment:
    """`plan` with one value; as it was where the value makes no sense here."""
    patch = value
    for key in reversed(path.split(".")):
        patch = {key: patch}
    try:
        return refine(plan, patch)
    except ConfigError:
        return plan
