"""One training step of the same model with the same weights: ours against other programs.

    git clone https://github.com/karpathy/llm.c
    git clone https://github.com/Lightning-AI/litgpt
    python benchmarks/peers.py --llm-c llm.c --litgpt litgpt

GPT-2 124M by llm.c's CPU program (C, OpenMP, fp32) and by Hugging Face; Pythia 160M by litgpt.
Random weights and tokens; a peer that runs in torch is taken at its better of fp32 and bf16
autocast, with torch's fused AdamW. Before anything is timed, the losses must agree. nanoGPT has a
script of its own, train_step.py. What is not there is skipped and said.
"""

import argparse
import importlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rounds import Step, interleaved, page
from table import Claim
from torch import Tensor, nn
from torch.nn import functional as F

from espalier import pretrained
from espalier.experiment import apply, load
from espalier.nn.gpt import make
from espalier.train import setup

TIME = 512
Batch = tuple[Tensor, Tensor]
Logits = Callable[[Tensor], Tensor]


class Pair:
    """Our model of a recipe, and a batch that it and a peer are trained on."""

    def __init__(self, recipe: str):
        self.plan = apply(load(recipe), ["model.dropout=0", "data.batch_size=1"])
        self.model = make(self.plan.model, seed=0)
        ids = torch.randint(self.plan.model.vocab_size, (1, TIME + 1))
        self.batch = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def loss(self) -> float:
        with torch.no_grad():
            return cross_entropy(self.model, self.batch).item()

    def step(self) -> Step:
        stepper = setup.stepper(self.model.train(), self.plan.model, self.plan.train, 1, "cpu")
        return lambda: stepper(*self.batch, 1e-4)


def cross_entropy(logits: Logits, batch: Batch) -> Tensor:
    return F.cross_entropy(logits(batch[0]).flatten(0, 1).float(), batch[1].flatten())


def in_torch(model: nn.Module, logits: Logits, batch: Batch) -> dict[str, Step]:
    """A peer's steps in fp32 and in bf16 autocast, as its users would write them."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, (0.9, 0.99), fused=True)

    def step(bf16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = cross_entropy(logits, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return {"fp32": lambda: step(False), "bf16": lambda: step(True)}


@contextmanager
def hugging_face(pair: Pair) -> Iterator[dict[str, Step]]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model: Any = GPT2LMHeadModel(config).train()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        pair.model.load_state_dict(pretrained.read(folder).build().state_dict())

    def logits(ids: Tensor) -> Tensor:
        found: Tensor = model(ids).logits
        return found

    agree(cross_entropy(logits, pair.batch).item(), pair)
    yield in_torch(model, logits, pair.batch)


@contextmanager
def litgpt(checkout: Path, pair: Pair) -> Iterator[dict[str, Step]]:
    sys.path.insert(0, str(checkout))
    model: Any = importlib.import_module("litgpt.model").GPT(
        importlib.import_module("litgpt.config").Config.from_name("pythia-160m")
    )
    names = {
        "trunk.embed.": "transformer.wte.",
        "trunk.stack.blocks.": "transformer.h.",
        "trunk.norm.": "transformer.ln_f.",
        "head.": "lm_head.",
        ".attention.out.": ".attn.proj.",
        ".attention.": ".attn.",
        ".ffn.up.": ".mlp.fc.",
        ".ffn.down.": ".mlp.proj.",
    }
    weights = pair.model.state_dict()
    for ours, theirs in names.items():
        weights = {name.replace(ours, theirs): weight for name, weight in weights.items()}
    model.load_state_dict(weights)
    model.max_seq_length = TIME
    agree(cross_entropy(model, pair.batch).item(), pair)
    yield in_torch(model, model, pair.batch)


@contextmanager
def llm_c(checkout: Path, pair: Pair) -> Iterator[dict[str, Step]]:
    with tempfile.TemporaryDirectory() as folder:
        program, weights, tokens = (f"{folder}/{name}" for name in ("program", "weights", "tokens"))
        driver = Path(__file__).parent / "peer_llm.c"
        flags = ["-Ofast", "-march=native", "-fopenmp", "-DOMP", "-w", f"-I{checkout}"]
        subprocess.run(["gcc", *flags, str(driver), "-lm", "-o", program], check=True)
        for_llm_c(pair).tofile(weights)
        torch.stack(pair.batch).to(torch.int32).numpy().tofile(tokens)
        running = subprocess.Popen(
            [program, weights, tokens, "1", str(TIME)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert running.stdin is not None
        assert running.stdout is not None

        def step() -> float:
            print(file=running.stdin, flush=True)
            line = next(line for line in running.stdout if line.startswith("loss "))
            return float(line.split()[1])

        agree(step(), pair)
        yield {"fp32": step}
        running.stdin.close()
        running.wait()


def for_llm_c(pair: Pair) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Our weights as its file of version 3: 256 integers, then tensor by tensor of all layers."""
    shape, weights = pair.plan.model, pair.model.state_dict()
    rows = -shape.vocab_size % 128  # it pads its vocabulary
    sizes = (shape.block_size, shape.vocab_size, shape.n_layer, shape.n_head, shape.n_embd)
    head = np.zeros(256, np.int32)
    head[:8] = 20240326, 3, *sizes, shape.vocab_size + rows
    parts = [head.view(np.float32), F.pad(weights["trunk.embed.weight"], (0, 0, 0, rows)).numpy()]
    parts.append(weights["trunk.position.weight"].numpy())
    for part in ("norm_1", "attention.qkv", "attention.out", "norm_2", "ffn.up", "ffn.down"):
        for kind in ("weight", "bias"):
            names = (f"trunk.stack.blocks.{i}.{part}.{kind}" for i in range(shape.n_layer))
            parts += [weights[name].numpy() for name in names]
    parts += [weights[f"trunk.norm.{kind}"].numpy() for kind in ("weight", "bias")]
    return np.concatenate([part.ravel() for part in parts])


def agree(theirs: float, pair: Pair) -> None:
    ours = pair.loss()
    if abs(theirs - ours) > 2e-4:
        sys.exit(f"not the same model: its loss is {theirs:.5f}, ours {ours:.5f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--llm-c", type=Path, help="a checkout of llm.c")
    parser.add_argument("--litgpt", type=Path, help="a checkout of litgpt")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    peers: dict[str, tuple[str, Callable[[Pair], Any]]] = {}
    if importlib.util.find_spec("transformers"):
        peers["Hugging Face"] = "gpt2", hugging_face
    if args.llm_c is not None and (args.llm_c / "train_gpt2.c").is_file() and shutil.which("gcc"):
        peers["llm.c"] = "gpt2", lambda pair: llm_c(args.llm_c, pair)
    if args.litgpt is not None and importlib.util.find_spec("lightning"):
        peers["litgpt"] = "pythia-160m", lambda pair: litgpt(args.litgpt, pair)
    for name in {"Hugging Face", "llm.c", "litgpt"} - peers.keys():
        print(f"skipped: {name} (its checkout or its packages are not there)", file=sys.stderr)
    if not peers:
        return
    lines = ["| model | peer | peer's step | ours | ratio |", "|---|---|---|---|---|"]
    claims = []
    for name, (recipe, prepared) in peers.items():
        torch.manual_seed(0)
        pair = Pair(recipe)
        with prepared(pair) as steps:
            got = interleaved({**steps, "ours": pair.step()}, (2,), args.rounds, steps=1)
        how = min(steps, key=lambda side: got[side][0])
        theirs, ours = got[how][0], got["ours"][0]
        times = f"{1000 * theirs:.0f} ms ({how}) | {1000 * ours:.0f} ms"
        lines.append(f"| {recipe}, T={TIME}, batch 1 | {name} | {times} | {theirs / ours:.2f}x |")
        claims.append(Claim(f"training step, {recipe}, T={TIME}", name, f"{theirs / ours:.2f}x"))
    page("peers", "Training step, same weights, 2 threads on either side", lines, claims)


if __name__ == "__main__":
    main()
