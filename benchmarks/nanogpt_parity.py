"""The same weights through nanoGPT's own model.py and through ours: logits, tokens, and time.

    git clone https://github.com/karpathy/nanoGPT && python benchmarks/nanogpt_parity.py nanoGPT

Random weights, fp32, CPU, one thread. `generate` runs past block_size (the rule `crop`), from the
same seed, one sample after another, as nanoGPT's sample.py does. Exits 1 where anything differs.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rounds import load_module

from espalier import pretrained
from espalier.engine.generate import Options, generate
from espalier.engine.sampling import NanoGPTStream, Sampling

SIZES: dict[str, dict[str, Any]] = {
    "char": {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "vocab_size": 65},
    "char, no bias": {
        "n_layer": 4,
        "n_head": 4,
        "n_embd": 128,
        "block_size": 64,
        "vocab_size": 65,
        "bias": False,
    },
    "6 heads": {"n_layer": 3, "n_head": 6, "n_embd": 192, "block_size": 128, "vocab_size": 5000},
}
CHOICES: dict[str, dict[str, Any]] = {
    "T=1": {"temperature": 1.0},
    "T=0.8 k=20": {"temperature": 0.8, "top_k": 20},
}
SEED, SAMPLES, TOLERANCE = 1337, 2, 1e-5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkout", nargs="?", type=Path, help="a nanoGPT checkout")
    checkout = parser.parse_args().checkout
    if checkout is None or not (checkout / "model.py").is_file():
        print("skipped: give a nanoGPT checkout (a folder with model.py)")
        return 0
    torch.set_num_threads(1)
    theirs = load_module(checkout / "model.py")
    print(
        f"torch {torch.__version__}, 1 thread, fp32; {SAMPLES} samples, prompt 8, 2 blocks long; "
        "logits: largest difference"
    )
    print(f"{'model':14} {'sampling':11} {'logits':>8} {'tokens':>12} {'nanoGPT':>9} {'ours':>8}")
    equal = [compare(theirs, name, how) for name in SIZES for how in CHOICES]
    print("equal" if all(equal) else "DIFFERENT")
    return 0 if all(equal) else 1


def compare(theirs: ModuleType, name: str, how: str) -> bool:
    args = {"bias": True, "dropout": 0.0} | SIZES[name]
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its size
        model = theirs.GPT(theirs.GPTConfig(**args)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # away from the start, where all tokens look alike
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    ours = through_a_file(model, args)
    block = args["block_size"]
    ids = torch.randint(args["vocab_size"], (2, block))
    with torch.no_grad():
        gap = (model(ids, ids)[0] - ours(ids)).abs().max().item()
    prompt, new = ids[:1, :8], 2 * block
    their_tokens, their_time = timed(lambda: their_text(model, prompt, new, CHOICES[how]))
    our_tokens, our_time = timed(lambda: our_text(ours, block, prompt, new, CHOICES[how]))
    same = sum(a == b for a, b in zip(their_tokens, our_tokens, strict=True))
    print(
        f"{name:14} {how:11} {gap:8.1e} {same:4} of {len(their_tokens):4}"
        f" {their_time:8.2f}s {our_time:7.2f}s"
    )
    return gap <= TOLERANCE and same == len(their_tokens)


def through_a_file(model: Any, args: dict[str, Any]) -> Any:
    """Our model, from a ckpt.pt as nanoGPT's train.py writes it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ckpt.pt"
        torch.save({"model": model.state_dict(), "model_args": args, "iter_num": 0}, file)
        return pretrained.read(file).build()


def their_text(model: Any, prompt: torch.Tensor, new: int, how: dict[str, Any]) -> list[int]:
    torch.manual_seed(SEED)
    made = [model.generate(prompt, new, **how)[0] for _ in range(SAMPLES)]
    return [token for row in made for token in row.tolist()]


def our_text(
    model: Any, block: int, prompt: torch.Tensor, new: int, how: dict[str, Any]
) -> list[int]:
    chance = NanoGPTStream(SEED, torch.device("cpu"))
    options = Options(new, sampling=Sampling(**how, seed=SEED, rng="nanogpt"))
    found = []
    for _ in range(SAMPLES):
        rows = generate(model, block, prompt.tolist(), options, chance)
        found += [*prompt[0].tolist(), *rows[0]]
    return found


def timed(work: Callable[[], list[int]]) -> tuple[list[int], float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
