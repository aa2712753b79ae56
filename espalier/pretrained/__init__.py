"""Other people's weights: key tables in, and out again. One file per format.

`read` takes nanoGPT's and WiggleGPT's ckpt.pt, BioGPT's biogpt_*.pt and Hugging Face directories
of GPT-2 and GPT-NeoX (Pythia); `kind` says which family a path is of, without reading weights.
"""

from pathlib import Path
from typing import Literal

from espalier.errors import UserError
from espalier.pretrained import files
from espalier.pretrained.foreign import Foreign, fill

__all__ = ["Foreign", "Kind", "fill", "kind", "read"]

Kind = Literal["nanogpt", "gpt2", "gpt_neox"]


def kind(path: Path) -> Kind | None:
    """Which format stands at `path`; None for anything else, such as a run."""
    if path.is_file():
        return "nanogpt" if path.suffix in {".pt", ".pth", ".bin"} else None
    if (path / "config.json").is_file():
        found = files.read_json(path / "config.json").get("model_type")
        return found if found in {"gpt2", "gpt_neox"} else None
    return "nanogpt" if (path / "ckpt.pt").is_file() else None


def read(path: Path) -> Foreign:
    """Configuration, weights and whatever else is there to go on from.

    Raises UserError, one line, for what is missing, damaged, or of another kind.
    """
    from espalier.pretrained import biogpt, gpt2, gpt_neox, nanogpt, wigglegpt

    found = kind(path)
    if found is None:
        raise UserError(refusal(path))
    if found == "nanogpt":
        file = path / "ckpt.pt" if path.is_dir() else path
        held = files.read_torch(file)
        if biogpt.holds(held):
            return biogpt.interpret(held, file)
        whole = nanogpt.checked(held, file)
        return nanogpt.interpret(whole, file, wigglegpt.dialect(whole, file) or nanogpt.Dialect())
    return gpt2.read(path) if found == "gpt2" else gpt_neox.read(path)


def refusal(path: Path) -> str:
    """Why `path` is nothing that can be read."""
    if not path.exists():
        return f"nothing at {path}"
    if path.is_file():
        files.check(path)  # says more, where it can
        if path.suffix == ".safetensors":
            return f"{path} holds tensors alone: give the directory, with its config.json"
        return f"{path} is no checkpoint: a run, nanoGPT's ckpt.pt or a Hugging Face directory"
    if (path / "config.json").is_file():
        model = files.read_json(path / "config.json").get("model_type")
        return f"{path} holds a {model} model; of Hugging Face's, gpt2 and gpt_neox are read"
    return f"{path} holds no model: neither config.yaml, config.json nor ckpt.pt is in it"
