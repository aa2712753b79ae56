"""One training step of the same model: ours against nanoGPT's eager fp32 step.

    git clone https://github.com/karpathy/nanoGPT && python benchmarks/train_step.py nanoGPT

Same sizes, same batch, AdamW, clipping; random tokens, no loader on either side. Rounds alternate,
each side is taken at its better number of threads.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from rounds import Step, interleaved, load_module, page
from table import Claim

from espalier.experiment import apply, load
from espalier.nn.gpt import make
from espalier.train import setup

ACCEPT = (2.3, 3.3, 2.8)
SIZES: dict[str, tuple[int, int, int, int, int, int]] = {
    # layers, heads, width, time, vocabulary, rows
    "4/128, T=64, batch 12": (4, 4, 128, 64, 65, 12),
    "6/384, T=256, batch 8": (6, 6, 384, 256, 65, 8),
    "GPT-2 124M, T=512, batch 1": (12, 12, 768, 512, 50257, 1),
}


def ours(size: tuple[int, ...], batch: tuple[torch.Tensor, torch.Tensor]) -> Step:
    layers, heads, width, time, vocabulary, rows = size
    wishes = {
        "model.n_layer": layers,
        "model.n_head": heads,
        "model.n_embd": width,
        "model.block_size": time,
        "model.vocab_size": vocabulary,
        "data.batch_size": rows,
        "model.dropout": 0,
    }
    plan = apply(load("shakespeare-char"), [f"{path}={value}" for path, value in wishes.items()])
    model = make(plan.model, plan.seed).train()
    stepper = setup.stepper(model, plan.model, plan.train, rows, "cpu")
    return lambda: stepper(*batch, 1e-4)


def theirs(nanogpt: Any, size: tuple[int, ...], batch: tuple[torch.Tensor, torch.Tensor]) -> Step:
    layers, heads, width, time, vocabulary, _ = size
    config = nanogpt.GPTConfig(
        n_layer=layers,
        n_head=heads,
        n_embd=width,
        block_size=time,
        vocab_size=vocabulary,
        bias=False,
        dropout=0.0,
    )
    model = nanogpt.GPT(config).train()
    optimizer = model.configure_optimizers(0.1, 1e-4, (0.9, 0.99), "cpu")

    def step() -> None:
        _, loss = model(*batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkout", nargs="?", type=Path, help="a nanoGPT checkout")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", type=int, help="one of the sizes, by its number")
    arguments = parser.parse_args()
    if arguments.checkout is None or not (arguments.checkout / "model.py").is_file():
        print("skipped: give a nanoGPT checkout (a folder with model.py)")
        return
    nanogpt = load_module(arguments.checkout / "model.py")
    lines = ["| model | nanoGPT | ours | ratio |", "|---|---|---|---|"]
    claims = []
    for number, (name, size) in enumerate(SIZES.items()):
        if arguments.only not in (None, number):
            continue
        shape = (size[5], size[3])
        batch = torch.randint(size[4], shape), torch.randint(size[4], shape)
        sides = {"nanoGPT": theirs(nanogpt, size, batch), "ours": ours(size, batch)}
        got = interleaved(sides, rounds=arguments.rounds)
        shown = [f"{1000 * s:.1f} ms ({threads} threads)" for s, threads in got.values()]
        ratio = f"{got['nanoGPT'][0] / got['ours'][0]:.2f}x"
        lines.append(f"| {name} | {shown[0]} | {shown[1]} | {ratio} |")
        work = f"training step, {name}"
        claims.append(Claim(work, "nanoGPT, same model", ratio, f"{ACCEPT[number]}x"))
    page("train_step", "Training step, same model, against nanoGPT", lines, claims)


if __name__ == "__main__":
    main()
