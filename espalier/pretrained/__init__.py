"""Other people's weights: key tables in, and out again. One file per format.

`read` takes nanoGPT's and WiggleGPT's ckpt.pt, BioGPT's biogpt_*.pt, nanochat's model_*.pt, Hugging
Face directories of GPT-2, GPT-NeoX (Pythia), Llama and nanochat, ids of such in its cache, and our
own exports; `kind` says which family a path is of, without reading weights.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from espalier.errors import UserError
from espalier.pretrained import files
from espalier.pretrained.foreign import Foreign, fill
from espalier.pretrained.hub import locate

__all__ = ["Foreign", "Kind", "fill", "kind", "locate", "read"]

Kind = Literal["nanogpt", "gpt2", "gpt_neox", "llama", "nanochat", "espalier"]
PUBLISHED: dict[str, Kind] = {
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
    "llama": "llama",
    "nanochat": "nanochat",
}


def kind(path: Path) -> Kind | None:
    """Which format stands at `path`; None for anything else, such as a run."""
    from espalier.pretrained import nanochat

    if (path / "config.json").is_file():
        model = str(files.read_json(path / "config.json").get("model_type"))
        return "espalier" if model == "espalier" else PUBLISHED.get(model)
    if path.exists() and nanochat.meta(path):
        return "nanochat"
    if path.is_file():
        return "nanogpt" if path.suffix in {".pt", ".pth", ".bin"} else None
    return "nanogpt" if (path / "ckpt.pt").is_file() else None


def read(source: str | Path, n_head: int | None = None) -> Foreign:
    """Configuration, weights and whatever else is there to go on from.

    `source` is a path, or the id of a model in the Hugging Face cache: EleutherAI/pythia-70m@step1.
    `n_head` is for files that do not say how many heads a model has (nanochat's kin).

    Raises UserError, one line, for what is missing, damaged, or of another kind.
    """
    from espalier.pretrained import (
        biogpt,
        deepseek_ocr,
        gpt2,
        gpt_neox,
        llama,
        nanochat,
        nanogpt,
        own,
        wigglegpt,
    )

    path = locate(source)
    found = kind(path)
    if found is None:
        raise UserError(refusal(path))
    if found == "nanogpt":
        file = path / "ckpt.pt" if path.is_dir() else path
        held = files.read_torch(file)
        if biogpt.holds(held):
            return biogpt.interpret(held, file)
        if deepseek_ocr.holds(held):
            return deepseek_ocr.interpret(held, file, n_head)
        whole = nanogpt.checked(held, file)
        return nanogpt.interpret(whole, file, wigglegpt.dialect(whole, file) or nanogpt.Dialect())
    if found == "nanochat":
        return nanochat.read(path, n_head)
    readers: dict[Kind, Callable[[Path], Foreign]] = {
        "gpt2": gpt2.read,
        "gpt_neox": gpt_neox.read,
        "llama": llama.read,
        "espalier": own.read,
    }
    return readers[found](path)


def refusal(path: Path) -> str:
    """Why `path` is nothing that can be read."""
    if not path.exists():
        return f"nothing at {path}"
    if path.is_file():
        files.check(path)  # says more, where it can
        if path.suffix == ".safetensors":
            return (
                f"{path} holds tensors alone: give the directory, with its config.json, or the "
                "recipe of its model: espalier import FILE --recipe NAME"
            )
        return f"{path} is no checkpoint: a run, nanoGPT's ckpt.pt or a Hugging Face directory"
    if (path / "config.json").is_file():
        model = files.read_json(path / "config.json").get("model_type")
        return f"{path} holds a {model} model; of Hugging Face's, {', '.join(PUBLISHED)} are read"
    return f"{path} holds no model: neither config.yaml, config.json nor ckpt.pt is in it"
