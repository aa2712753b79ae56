"""Generation of GPT-2 124M on a CPU, against nanoGPT and Hugging Face transformers.

    git clone https://github.com/karpathy/nanoGPT && python benchmarks/decode.py nanoGPT

Random weights of GPT-2's size; temperature 0.8, top-k 200, prompts of 8 tokens. Sides take turns,
round by round; a figure is the median over rounds of new tokens per second, prompt included, at
the better of 1 and 2 threads (chosen in a short first round). `roofline` is the time in which the
weights that a token needs can be read once over the time that it takes; how fast memory can be
read is measured in every round, by the fastest of three readers. `--keep FILE` adds rounds to
those of earlier calls. Writes results/decode_batch_1_8.md, named by its batches.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rounds import load_module, page
from table import Claim

from espalier.engine.generate import Options, generate
from espalier.engine.sampling import Sampling
from espalier.engine.weights import DTYPES, pack
from espalier.native import matvec
from espalier.nn.gpt import GPTConfig, make

VOCAB, BLOCK, PROMPT, TOP_K, HEAT = 50257, 1024, 8, 200, 0.8
ACCEPT = {
    ("ours bf16", "nanoGPT", 1): 15.0,
    ("ours bf16", "HF float32", 1): 3.5,
    ("ours bf16", "HF bf16", 1): 2.2,
    ("ours bf16", "HF float32", 8): 3.0,
}


@dataclass
class Side:
    """One way to make `new` tokens for each of `rows` prompts."""

    name: str
    rows: int
    new: int
    run: Callable[[torch.Tensor, int], object]
    threads: int = 2
    speeds: list[float] = field(default_factory=list)

    @property
    def key(self) -> str:
        return f"{self.name} x{self.rows}"

    def measure(self, new: int) -> float:
        """Tokens per second over all rows."""
        torch.set_num_threads(self.threads)
        prompt = torch.randint(VOCAB, (self.rows, PROMPT))
        start = time.perf_counter()
        self.run(prompt, new)
        return self.rows * new / (time.perf_counter() - start)

    def settle(self) -> None:
        """Warm up, and take the better number of threads where it is not known yet."""
        if self.speeds:
            self.measure(2)
            return
        found = {}
        for self.threads in (1, 2):
            self.measure(2)
            found[self.threads] = self.measure(6)
        self.threads = max(found, key=lambda threads: found[threads])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkout", nargs="?", type=Path, help="a nanoGPT checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--new", type=int, default=256, help="tokens; a quarter at larger batches")
    parser.add_argument("--keep", type=Path, help="a JSON file that gathers rounds")
    args = parser.parse_args()
    torch.manual_seed(0)
    sides = [side for rows in args.batch for side in make_sides(args.checkout, rows, args.new)]
    read = recall(args.keep, sides)
    for side in sides:
        side.settle()
    for _ in range(args.rounds):
        read.append(bandwidth())
        for side in sides:
            side.speeds.append(side.measure(side.new))
    if args.keep is not None:
        kept = {"read": read, **{side.key: [side.threads, side.speeds] for side in sides}}
        args.keep.write_text(json.dumps(kept), encoding="utf-8")
    name = "_".join(["decode_batch", *map(str, args.batch)])
    title = "Generation, GPT-2 124M (random weights), temperature 0.8, top-k 200"
    page(name, title, [*table(sides, read), "", *ratios(sides)], claims(sides))


def recall(keep: Path | None, sides: list[Side]) -> list[float]:
    """Rounds of earlier calls: fills the sides, gives the speeds of memory."""
    if keep is None or not keep.is_file():
        return []
    kept = json.loads(keep.read_text(encoding="utf-8"))
    for side in sides:
        side.threads, side.speeds = kept[side.key]
    found: list[float] = kept["read"]
    return found


def make_sides(checkout: Path | None, rows: int, new: int) -> list[Side]:
    new = new if rows == 1 else new // 4
    model = make(GPTConfig(vocab_size=VOCAB, block_size=BLOCK), seed=0)
    sides = [ours(model, weights, rows, new) for weights in DTYPES]
    if checkout is not None and rows == 1:
        sides.append(nanogpt(checkout, new))
    if importlib.util.find_spec("transformers"):
        sides += [
            hugging_face(name, dtype, rows, new)
            for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16))
        ]
    return sides


def ours(model: Any, weights: Any, rows: int, new: int) -> Side:
    packed = pack(model, weights)
    sampling = Sampling(temperature=HEAT, top_k=TOP_K)

    def run(prompt: torch.Tensor, count: int) -> object:
        return generate(packed, BLOCK, prompt.tolist(), Options(count, sampling=sampling))

    return Side(f"ours {weights}", rows, new, run)


def nanogpt(checkout: Path, new: int) -> Side:
    theirs = load_module(checkout / "model.py")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its size
        config = theirs.GPTConfig(vocab_size=VOCAB, block_size=BLOCK, dropout=0.0, bias=True)
        model = theirs.GPT(config).eval()

    def run(prompt: torch.Tensor, count: int) -> object:
        return model.generate(prompt, count, temperature=HEAT, top_k=TOP_K)

    return Side("nanoGPT", 1, new, run)


def hugging_face(name: str, dtype: torch.dtype, rows: int, new: int) -> Side:
    from transformers import GPT2Config, GPT2LMHeadModel, logging

    logging.set_verbosity_error()
    model: Any = GPT2LMHeadModel(GPT2Config()).eval().to(dtype)

    def run(prompt: torch.Tensor, count: int) -> object:
        return model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            temperature=HEAT,
            top_k=TOP_K,
            max_new_tokens=count,
            min_new_tokens=count,
            pad_token_id=0,
        )

    return Side(f"HF {name}", rows, new, run)


def bandwidth() -> float:
    """Bytes per second that two threads read: torch's sum, or our own product, which is faster."""
    torch.set_num_threads(2)
    numbers = torch.ones(2**17, 1024)
    flat = numbers.flatten()
    product = matvec.Linear(matvec.pack(numbers, None, torch.float32))
    x = torch.ones(1, 1024)
    best = float("inf")
    for read in (flat.sum, flat.amax, lambda: product(x)):
        for _ in range(4):
            start = time.perf_counter()
            read()
            best = min(best, time.perf_counter() - start)
    return numbers.nbytes / best


def weight_bytes(name: str) -> float:
    """Bytes of GPT-2's 124M weights that one token reads."""
    matrices = 12 * 12 * 768**2 + VOCAB * 768
    return matrices * {"float32": 4, "bf16": 2, "int8": 1}.get(name.rsplit(maxsplit=1)[-1], 4)


def table(sides: list[Side], read: list[float]) -> list[str]:
    low, middle, high = (x / 1e9 for x in (min(read), statistics.median(read), max(read)))
    spread = f"{middle:.1f} (median; {low:.1f} to {high:.1f})"
    lines = [
        f"{len(read)} rounds; memory read at {spread} GB/s",
        "",
        "| side | batch | new tokens | threads | tok/s (median; range) | roofline |",
        "|---|---|---|---|---|---|",
    ]
    for side in sides:
        roof = [
            s / side.rows * weight_bytes(side.name) / r
            for s, r in zip(side.speeds, read, strict=True)
        ]
        low, high = min(side.speeds), max(side.speeds)
        lines.append(
            f"| {side.name} | {side.rows} | {side.new} | {side.threads} | "
            f"{statistics.median(side.speeds):.1f} ({low:.1f} to {high:.1f}) | "
            f"{statistics.median(roof):.2f} |"
        )
    return lines


def claims(sides: list[Side]) -> list[Claim]:
    """What is promised of the sides that took part."""
    by_name = {(side.name, side.rows): side for side in sides}
    found = []
    for (mine, other, rows), wanted in ACCEPT.items():
        if {(mine, rows), (other, rows)} <= by_name.keys():
            pairs = zip(by_name[mine, rows].speeds, by_name[other, rows].speeds, strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            work = f"decoding, GPT-2 124M in bf16, batch {rows}"
            found.append(Claim(work, other, f"{ratio:.1f}x", f"{wanted:g}x"))
    return found


def ratios(sides: list[Side]) -> list[str]:
    """Medians over rounds of the ratio of two sides in the same round."""
    lines = ["| ratio | batch | median (range) | accept |", "|---|---|---|---|"]
    for mine in sides:
        for other in sides:
            if not mine.name.startswith("ours") or other.name.startswith("ours"):
                continue
            if mine.rows != other.rows:
                continue
            pairs = [a / b for a, b in zip(mine.speeds, other.speeds, strict=True)]
            wanted = ACCEPT.get((mine.name, other.name, mine.rows))
            lines.append(
                f"| {mine.name} / {other.name} | {mine.rows} | {statistics.median(pairs):.1f} "
                f"({min(pairs):.1f} to {max(pairs):.1f}) | {wanted or ''} |"
            )
    return lines


if __name__ == "__main__":
    main()
