"""The tokenizer of weights from elsewhere: named, lying beside them, or known by kind and size."""

from pathlib import Path

from espalier.data import foreign as nanogpt_corpus
from espalier.data.corpus import Corpus
from espalier.data.illustrated import IMAGE
from espalier.data.tokenizer import Tokenizer, choose, load
from espalier.data.tokenizer.special import SpecialTokenizer
from espalier.durable import read_json
from espalier.errors import UserError
from espalier.pretrained.foreign import Foreign

OURS = "tokenizer.espalier.json"  # of an export, where a tokenizer.json cannot hold it
PICKLE, WITH_PICKLES = "tokenizer.pkl", ("nanochat", "deepseek_ocr")
GPT2 = ("gpt2", (50257, 50304))  # as published, and padded by nanoGPT
NEOX = ("gpt-neox", (50304, 50432, 50688))  # padded: Pythia's, the larger ones' more
KNOWN = {"gpt2": GPT2, "nanogpt": GPT2, "wigglegpt": GPT2, "gpt_neox": NEOX, "biogpt": NEOX}


def find(foreign: Foreign | None, chosen: str | None, vocab_size: int) -> Tokenizer:
    """`chosen`, or what lies beside `foreign`, or its kind's where the vocabulary has that size.

    Raises UserError where there is none, or one with more ids than the model has.
    """
    found = _named(chosen) if chosen else _beside(foreign) if foreign else None
    if found is None:
        kind = foreign.kind if foreign else ""
        name, sizes = KNOWN.get(kind, ("", ()))
        if vocab_size not in sizes:
            raise UserError(
                f"no tokenizer came with it, and none is known for a {kind} model of {vocab_size} "
                "ids: give --tokenizer meta.pkl, a corpus directory, a tokenizer.json or a name"
            )
        found = choose(name)
    if found.vocab_size > vocab_size:
        raise UserError(
            f"the tokenizer has {found.vocab_size} ids, the model {vocab_size}: it is another's"
        )
    return found


def _named(chosen: str) -> Tokenizer:
    place = Path(chosen)
    if place.name == "meta.pkl":
        if not place.is_file():
            raise UserError(f"no file {place}")
        return nanogpt_corpus.tokenizer(nanogpt_corpus.describe(place.parent), place.parent)
    if place.is_dir() and not (place / "tokenizer.json").is_file():
        return Corpus.open(place).tokenizer
    return choose(chosen)


def _with_image(found: Tokenizer, foreign: Foreign) -> Tokenizer:
    """With the id that stands where an image's features stand, where the model has one more."""
    room, size = foreign.config.vocab_size or 0, found.vocab_size
    known = getattr(found, "special", {})
    if foreign.kind != "deepseek_ocr" or IMAGE in known or room <= size:
        return found
    return SpecialTokenizer(found, {**known, IMAGE: size})


def _beside(foreign: Foreign) -> Tokenizer | None:
    if foreign.kind not in {"nanogpt", "wigglegpt"}:
        place = foreign.folder
        if (place / OURS).is_file():
            return load(read_json(place / OURS))
        if (place / "tokenizer.json").is_file():
            return choose(str(place / "tokenizer.json"))
        for folder in (place, place.parent / "tokenizer"):  # nano-deepseek-ocr's stands aside
            if foreign.kind in WITH_PICKLES and (folder / PICKLE).is_file():
                return _with_image(choose(str(folder / PICKLE)), foreign)
        pieces = place / "tokenizer.model"
        return choose(f"sentencepiece:{pieces}") if pieces.is_file() else None
    folders = [foreign.path.parent]
    if isinstance(dataset := foreign.settings.get("dataset"), str):
        folders += [Path("data") / dataset, foreign.path.parent.parent / "data" / dataset]
    for folder in folders:
        if (folder / "meta.pkl").is_file():
            return nanogpt_corpus.tokenizer(nanogpt_corpus.describe(folder), folder)
    return None
