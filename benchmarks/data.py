"""Text to ids and tokens to batches, against nanoGPT's and plain tiktoken's.

    python benchmarks/data.py NANOGPT_CHECKOUT TEXT [--vocab FOLDER] [--rounds 15]

TEXT is a plain text such as tiny Shakespeare; FOLDER has GPT-2's vocab.bpe. Characters: nanoGPT's
`encode` gives a list, which its script then makes an array of; ours gives the array. Batches:
nanoGPT's `get_batch` on the same tokens, the drawing of places included on both sides (a round is
as many batches as ours draws places for at once). Byte pairs: this machine's cores as `espalier
prepare` uses them (processes started, their work and ids handed over), against one call of tiktoken
with the list it gives. Rounds alternate; medians.
"""

import argparse
import ast
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from rounds import load_module, page
from table import Claim

from espalier import device
from espalier.data.blocks import Block, Part, encoder
from espalier.data.loader import batch
from espalier.data.order import AHEAD, Order
from espalier.data.tokenizer import Tokenizer, choose, train
from espalier.data.tokens import Tokens

SHAPES = ((12, 64), (64, 256), (12, 1024))  # rows, block_size
ENCODE, GATHER = 8, 10  # accepted ratios
TIMES = 12  # the text, so often, for byte pairs


class Row(NamedTuple):
    """A line of the page."""

    work: str
    peer: str
    theirs: str
    ours: str
    ratio: float
    accepted: float | None
    """the ratio that is promised, if one is"""

    def claim(self) -> Claim:
        return Claim(self.work, self.peer, f"{self.ratio:.1f}x", f"{self.accepted}x")


def function(file: Path, name: str, head: str, folder: Path) -> ModuleType:
    """A module with one function of a peer's script, under the names that it uses."""
    source = file.read_text(encoding="utf-8")
    found = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == name]
    made = folder / f"{name}.py"
    made.write_text(f"{head}\n{ast.get_source_segment(source, found[0])}\n", encoding="utf-8")
    return load_module(made)


def medians(sides: Mapping[str, Callable[[], object]], rounds: int, calls: int) -> list[float]:
    """Seconds a call, by side."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, call in sides.items():
            start = time.perf_counter()
            for _ in range(calls):
                call()
            if number:  # the first round warms up
                found[name].append((time.perf_counter() - start) / calls)
    return [statistics.median(times) for times in found.values()]


def characters(checkout: Path, text: str, folder: Path, rounds: int) -> Row:
    file = checkout / "data" / "shakespeare_char" / "prepare.py"
    numbers = {symbol: i for i, symbol in enumerate(sorted(set(text)))}
    peer = function(file, "encode", f"stoi = {numbers}", folder)
    ours = train("char", [text], 0)
    assert peer.encode(text) == ours.encode(text).tolist()
    sides = {
        "list": lambda: peer.encode(text),
        "array": lambda: np.array(peer.encode(text), np.uint16),
        "ours": lambda: ours.encode(text),
    }
    plain, array, mine = medians(sides, rounds, 1)
    peers = f"{1e3 * plain:.1f} ms (as an array {1e3 * array:.1f} ms)"
    return Row("character encode", "nanoGPT", peers, f"{1e3 * mine:.2f} ms", plain / mine, ENCODE)


def batches(
    checkout: Path, ids: np.ndarray, vocab_size: int, folder: Path, rounds: int
) -> list[Row]:
    file = folder / "train.bin"
    ids.astype("<u2").tofile(file)
    tokens = Tokens([file], "<u2", vocab_size)
    found = []
    for rows, size in SHAPES:
        head = (
            f"import os\nimport numpy as np\nimport torch\ndata_dir = {str(folder)!r}\n"
            f"block_size, batch_size, device, device_type = {size}, {rows}, 'cpu', 'cpu'\n"
        )
        peer = function(checkout / "train.py", "get_batch", head, folder)
        order, first = Order(len(tokens), size, seed=0), iter(range(0, 10**9, rows))
        sides = {
            "peer": lambda peer=peer: peer.get_batch("train"),
            "ours": lambda o=order, f=first, r=rows, s=size: batch(tokens, o, next(f), r, s),
        }
        theirs, ours = medians(sides, rounds, AHEAD // rows)
        took = f"{1e6 * theirs:.0f} us", f"{1e6 * ours:.0f} us"
        found.append(Row(f"batch of {rows} x {size}", "nanoGPT", *took, theirs / ours, GATHER))
    return found


def pairs(text: str, tokenizer: Tokenizer, rounds: int) -> Row:
    """The text TIMES over in documents, on all cores, and in one call of the library."""
    lines = text.splitlines(keepends=True)
    step = max(1, len(lines) // 400)
    documents = ["".join(lines[i : i + step]) for i in range(0, len(lines), step)]
    half = len(documents) // 2 or 1
    found = [
        Block([Part(one, 1, 0, True) for one in documents[i : i + half]])
        for _ in range(TIMES)
        for i in range(0, len(documents), half)
    ]
    whole = "".join(documents) * TIMES
    library = tokenizer._encoding  # type: ignore[attr-defined]
    cores = device.cores()
    with encoder(tokenizer, tokenizer.eot, cores) as encoded:
        sides = {
            "tiktoken": lambda: library.encode_ordinary(whole),
            "ours": lambda: sum(len(ids.ids[1]) for _, ids in encoded(found)),
        }
        plain, ours = medians(sides, max(3, rounds // 4), 1)
    size = len(whole.encode()) / 1e6
    work = f"GPT-2 byte pairs, {size:.0f} MB on {cores} cores"
    speeds = f"{size / plain:.1f} MB/s", f"{size / ours:.1f} MB/s"
    return Row(work, "tiktoken, one thread", *speeds, plain / ours, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkout", nargs="?", type=Path, help="a nanoGPT checkout")
    parser.add_argument("text", nargs="?", type=Path)
    parser.add_argument("--vocab", type=Path, help="a folder with vocab.bpe")
    parser.add_argument("--rounds", type=int, default=15)
    wish = parser.parse_args()
    if wish.text is None or not (wish.checkout / "train.py").is_file():
        print("skipped: give a nanoGPT checkout (a folder with train.py) and a text")
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(1)
    text = wish.text.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [characters(wish.checkout, text, folder, wish.rounds)]
        made = train("char", [text], 0)
        rows += batches(wish.checkout, made.encode(text), made.vocab_size, folder, wish.rounds)
    if wish.vocab is not None:
        rows.append(pairs(text, choose("gpt2", wish.vocab), wish.rounds))
    lines = ["| work | peer | theirs | ours |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row[:4])} |" for row in rows]
    page(
        "data",
        "Text to ids and tokens to batches",
        lines,
        [row.claim() for row in rows if row.accepted],
    )


if __name__ == "__main__":
    main()
