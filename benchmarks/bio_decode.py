"""A token of generation at context 256, vocabulary 50,304: our cache against the originals' way.

    python benchmarks/bio_decode.py [THREADS ...]

BioGPT and WiggleGPT generate by a forward pass over the whole context, the head at every position,
and torch's own operators; that is done here by our model on the same random weights, in fp32 and
under bf16 autocast. Ours steps through its caches, the head on the last position, weights in fp32
or bf16. Batch 1, top-k 40 at temperature 0.8 on both sides; sides take turns; medians; each at its
better of 1 and 2 threads.
"""

import contextlib
import sys
from collections.abc import Iterator

import torch
from rounds import Step, interleaved, page

from espalier.config import refine
from espalier.engine.generate import Generation, Options
from espalier.engine.sampling import Sampling
from espalier.engine.weights import Weights, pack
from espalier.experiment import load
from espalier.native import training
from espalier.nn.gpt import GPT, GPTConfig, make

CONTEXT, VOCAB, TOP_K, HEAT = 256, 50304, 40, 0.8
RECIPES = ("biogpt-small-50k", "wigglegpt")
ROOM = 2 * CONTEXT  # so that the steps of a round stay inside the block


def shape(recipe: str) -> GPTConfig:
    config = load(recipe).model
    return refine(config, {"block_size": ROOM, "vocab_size": VOCAB, "dropout": 0.0})


@contextlib.contextmanager
def torch_alone() -> Iterator[None]:
    """Without our kernels."""
    before = [kernel.ready for kernel in training.KERNELS]
    for kernel in training.KERNELS:
        kernel.ready = False
    try:
        yield
    finally:
        for kernel, ready in zip(training.KERNELS, before, strict=True):
            kernel.ready = ready


def theirs(model: GPT, dtype: torch.dtype) -> Step:
    ids = torch.randint(VOCAB, (1, CONTEXT))
    short = dtype is torch.bfloat16

    def step() -> None:
        with torch.no_grad(), torch_alone(), torch.autocast("cpu", dtype, enabled=short):
            logits = model(ids)[:, -1].float() / HEAT
            least = torch.topk(logits, TOP_K).values[:, -1:]
            logits[logits < least] = float("-inf")
            torch.multinomial(logits.softmax(-1), 1)

    return step


def ours(model: GPT, weights: Weights) -> Step:
    packed = pack(model, weights)
    options = Options(ROOM, sampling=Sampling(temperature=HEAT, top_k=TOP_K))
    prompt = torch.randint(VOCAB, (CONTEXT - 16,)).tolist()
    held: list[Generation] = []

    def step() -> None:
        if not held or len(held[0].history[0]) > CONTEXT + 128:
            held[:] = [Generation(packed, ROOM, [prompt], options)]
            held[0].step()  # reads the prompt
        held[0].step()

    return step


def main() -> int:
    threads = tuple(int(word) for word in sys.argv[1:]) or (1, 2)
    torch.manual_seed(0)
    lines = ["| model | originals' way ms | ours ms | times as fast (accept 8, aim 13) |"]
    lines.append("|---|---|---|---|")
    for recipe in RECIPES:
        model = make(shape(recipe), 0).eval()
        sides = {
            "float32": theirs(model, torch.float32),
            "bf16": theirs(model, torch.bfloat16),
            "ours float32": ours(model, "float32"),
            "ours bf16": ours(model, "bf16"),
        }
        found = {name: time for name, (time, _) in interleaved(sides, threads, 5, 4).items()}
        for kind in ("float32", "bf16"):
            slow, fast = found[kind], found[f"ours {kind}"]
            name = f"{recipe}, {kind}"
            lines.append(f"| {name} | {1e3 * slow:.1f} | {1e3 * fast:.2f} | {slow / fast:.1f} |")
    title = f"A token at context 256, vocabulary 50,304, batch 1, better of {list(threads)} threads"
    page("bio_decode", title, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
