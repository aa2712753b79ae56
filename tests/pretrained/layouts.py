"""Random files in other programs' layouts, written here from the formats' description."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ARGS = {
    "n_layer": 2,
    "n_head": 4,
    "n_embd": 32,
    "block_size": 16,
    "bias": True,
    "vocab_size": 29,
    "dropout": 0.0,
}
SETTINGS = {
    "out_dir": "out-shakespeare-char",
    "eval_interval": 250,
    "dataset": "shakespeare_char",
    "gradient_accumulation_steps": 1,
    "batch_size": 12,
    "block_size": 16,
    "learning_rate": 1e-3,
    "max_iters": 2000,
    "weight_decay": 0.1,
    "beta1": 0.9,
    "beta2": 0.99,
    "decay_lr": True,
    "warmup_iters": 100,
    "lr_decay_iters": 2000,
    "min_lr": 1e-4,
    "device": "cpu",
    "compile": False,
}
SYMBOLS = "\n abcdefghijklmnopqrstuvwxyz."  # as many as ARGS has ids


def nanogpt_tensors(bias: bool = True, seed: int = 0) -> dict[str, Tensor]:
    """nanoGPT's state dict, in its order; large enough to be far from linear."""
    generator = torch.Generator().manual_seed(seed)
    width, found = ARGS["n_embd"], {}

    def put(name: str, *shape: int) -> None:
        found[name] = 0.3 * torch.randn(shape, generator=generator)

    def linear(name: str, n_out: int, n_in: int) -> None:
        put(f"{name}.weight", n_out, n_in)
        if bias:
            put(f"{name}.bias", n_out)

    def norm(name: str) -> None:
        put(f"{name}.weight", width)
        if bias:
            put(f"{name}.bias", width)

    put("transformer.wte.weight", ARGS["vocab_size"], width)
    put("transformer.wpe.weight", ARGS["block_size"], width)
    for i in range(ARGS["n_layer"]):
        layer = f"transformer.h.{i}"
        norm(f"{layer}.ln_1")
        linear(f"{layer}.attn.c_attn", 3 * width, width)
        linear(f"{layer}.attn.c_proj", width, width)
        norm(f"{layer}.ln_2")
        linear(f"{layer}.mlp.c_fc", 4 * width, width)
        linear(f"{layer}.mlp.c_proj", width, 4 * width)
    norm("transformer.ln_f")
    found["lm_head.weight"] = found["transformer.wte.weight"]
    return found


def adamw_state(tensors: dict[str, Tensor], step: int) -> dict[str, Any]:
    """What torch's AdamW saves with nanoGPT's two groups; entry i is filled with i and 100 + i."""
    names = [name for name in tensors if name != "lm_head.weight"]
    decayed = [name for name in names if tensors[name].ndim >= 2]
    plain = [name for name in names if tensors[name].ndim < 2]
    state = {
        i: {
            "step": torch.tensor(float(step)),
            "exp_avg": torch.full_like(tensors[name], i),
            "exp_avg_sq": torch.full_like(tensors[name], 100 + i),
        }
        for i, name in enumerate([*decayed, *plain])
    }
    groups = [
        {
            "lr": 1e-3,
            "betas": (0.9, 0.99),
            "weight_decay": 0.1,
            "params": list(range(len(decayed))),
        },
        {"lr": 1e-3, "weight_decay": 0.0, "params": list(range(len(decayed), len(state)))},
    ]
    return {"state": state, "param_groups": groups}


def nanogpt_checkpoint(bias: bool = True, step: int = 500) -> dict[str, Any]:
    tensors = nanogpt_tensors(bias)
    return {
        "model": tensors,
        "optimizer": adamw_state(tensors, step),
        "model_args": ARGS | {"bias": bias},
        "iter_num": step,
        "best_val_loss": torch.tensor(1.9),
        "config": SETTINGS,
    }


def write_nanogpt(file: Path, **changes: Any) -> Path:
    """A ckpt.pt with some entries replaced; None removes one."""
    whole = nanogpt_checkpoint() | changes
    torch.save({key: value for key, value in whole.items() if value is not None}, file)
    return file


def write_meta(folder: Path, symbols: str = SYMBOLS) -> None:
    """The meta.pkl of a corpus of characters."""
    stoi = {symbol: i for i, symbol in enumerate(symbols)}
    meta = {"vocab_size": len(stoi), "stoi": stoi, "itos": {i: s for s, i in stoi.items()}}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def write_out(folder: Path, symbols: str = SYMBOLS) -> Path:
    """A folder as nanoGPT leaves it: ckpt.pt, and the meta.pkl of its corpus."""
    write_meta(folder, symbols)
    write_nanogpt(folder / "ckpt.pt")
    return folder
