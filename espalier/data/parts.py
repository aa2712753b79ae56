"""One corpus made by several processes, anywhere: each tokenises a part, the last joins them.

Every process reads the whole source and cuts it into the same blocks; part i of n encodes each n-th
of them. So any source can be divided, and the parts dealt out in turn are, byte for byte, what one
process would have written. Encoding, not reading, is what takes the time.
"""

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from espalier import durable
from espalier.data import prepare, shards
from espalier.data.blocks import Block, Counts, Encoded, blocks, encoder
from espalier.data.combine import is_corpus
from espalier.data.corpus import Corpus
from espalier.data.download import Retry
from espalier.data.job import Job, already, check_disk, plan, settings
from espalier.data.request import Listener, Request
from espalier.data.shards import ShardWriter, State
from espalier.data.tokenizer import Tokenizer, load
from espalier.data.tokens import token_dtype
from espalier.errors import MachineError, UserError

PART, LENGTHS = "part.json", "blocks.u64"
FORMAT = "espalier-part-1"


@dataclass(frozen=True)
class Part:
    """Number `index` of `count`, from 0."""

    index: int
    count: int

    def place(self, out: Path) -> Path:
        """Where it lies until all are there."""
        return out.with_name(f"{out.name}.part-{self.index + 1:05d}-of-{self.count:05d}")


def parse(text: str) -> Part:
    """3/8, the third of eight."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UserError(f"--shard {text}: write i/N, such as 3/8 for the third of eight parts")
    return Part(int(index) - 1, int(count))


def prepare_part(
    request: Request, part: Part, listener: Listener, retry: Retry | None = None
) -> Corpus | list[int]:
    """Make a part, or find it made; the corpus if it was the last, else the parts to come (from 1).

    Parts lie beside `request.out`; those made elsewhere may be copied there. Raises UserError and
    MachineError; what a MachineError interrupts is gone on with by the same call.
    """
    if any(map(is_corpus, (request.source, *request.more))):
        raise UserError("--shard is for texts; prepared corpora are only copied")
    whole = plan(request, listener, retry)
    if whole.target_tokens is not None:
        raise UserError("--target-tokens counts through the whole text: not with --shard")
    wanted = settings(whole)
    if (done := already(whole, wanted)) is not None:
        return done
    job = replace(whole, request=replace(request, out=part.place(request.out)))
    if not _is_made(job.request.out, wanted):
        _make(job, part, wanted)
    every = [Part(i, part.count) for i in range(part.count)]
    missing = [one.index + 1 for one in every if not _is_made(one.place(request.out), wanted)]
    if missing:
        return missing
    with ExitStack() as stack:
        try:
            stack.enter_context(shards.alone(whole.partial))
        except UserError:
            listener.note("another process is putting the parts together")
            return []
        places = [one.place(request.out) for one in every]
        if not all(place.is_dir() for place in places):
            return Corpus.open(request.out)  # another process was quicker
        joined = _join(whole, wanted, places)
    if joined:
        shards.publish(whole.partial, request.out)
    else:
        listener.note("too few documents for parts: it is prepared in one piece")
        prepare.prepare(request, listener, retry)
    for place in places:
        shutil.rmtree(place, ignore_errors=True)
    return Corpus.open(request.out)


def _is_made(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether a finished part lies there; UserError when it is of another corpus."""
    try:
        found = json.loads((folder / PART).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if found.get("format") != FORMAT or found.get("settings") != wanted:
        raise UserError(f"{folder} is a part of another corpus: remove it, or choose another --out")
    return True


def _make(job: Job, part: Part, wanted: dict[str, Any]) -> None:
    check_disk(job)
    with shards.alone(job.partial):
        tokenizer, state = prepare.begin(job, {**wanted, "part": [part.index, part.count]})
        total = _fill(job, tokenizer, state, part)
        made = {
            "format": FORMAT,
            "settings": wanted,
            "blocks": total,
            "tokenizer": tokenizer.spec(),
            **{key: value for key, value in asdict(state).items() if key != "settings"},
        }
        shards.write_json(job.partial / PART, made)
    shards.publish(job.partial, job.request.out)


def _fill(job: Job, tokenizer: Tokenizer, state: State, part: Part) -> int:
    """Write this part's blocks; how many the whole has."""
    tally, total = Counter(state.tally), 0
    end_id = None if job.source.one else tokenizer.eot
    committed = time.monotonic()

    def mine(first: int) -> Iterator[Block]:
        nonlocal total
        found = blocks(job.source.read(state.cursor, tally), job.split(state.threshold))
        for total, block in enumerate(found, first + 1):
            if (total - 1) % part.count == part.index:
                yield block

    itemsize = token_dtype(tokenizer.vocab_size).itemsize
    with (
        closing(ShardWriter(job.partial, job.names, itemsize, state)) as writer,
        closing(_Lengths(job.partial / LENGTHS, state, len(job.names))) as lengths,
        encoder(tokenizer, end_id, prepare.processes(job)) as encoded,
    ):
        total = first = part.index + (lengths.count - 1) * part.count + 1 if lengths.count else 0
        for block, ids in encoded(mine(first)):
            writer.add(block, ids)
            lengths.add(block, ids)
            if block.mark:
                job.listener.progress(block.mark.done, job.source.size, job.source.unit)
                if time.monotonic() - committed >= prepare.COMMIT_EVERY:
                    lengths.sync()
                    writer.commit(block.mark.cursor, block.mark.tally)
                    committed = time.monotonic()
        writer.sync()
        lengths.sync()
    state.tally = dict(tally)
    return total


class _Lengths:
    """Of each block the tokens in every shard, and its documents: little-endian 64-bit numbers."""

    def __init__(self, file: Path, state: State, names: int):
        """What was added after the state's last commit is cut off."""
        self.width = names + 1
        known = _read_lengths(file, self.width) if file.exists() else np.empty((0, self.width))
        sums = np.cumsum(known.sum(1)).tolist()
        committed = state.tokens + state.keys
        self.count = sums.index(committed) + 1 if committed else 0
        self.stream = file.open("ab")
        self.stream.truncate(self.count * self.width * 8)

    def add(self, block: Block, ids: Encoded) -> None:
        tokens = [len(ids.ids.get(shard, ())) for shard in range(self.width - 1)]
        ends = sum(part.last for part in block.parts)
        self.stream.write(np.array([*tokens, ends], "<u8").tobytes())
        self.count += 1

    def sync(self) -> None:
        self.stream.flush()
        durable.sync(Path(self.stream.name))

    def close(self) -> None:
        self.stream.close()


def _read_lengths(file: Path, width: int) -> NDArray[np.uint64]:
    found = np.fromfile(file, "<u8")
    return found[: len(found) // width * width].reshape(-1, width)


def _join(whole: Job, wanted: dict[str, Any], places: Sequence[Path]) -> bool:
    """Deal out the parts' blocks in turn; false where a shard would be empty."""
    made = [durable.read_json(place / PART) for place in places]
    for key in ("blocks", "tokenizer", "threshold", "tally"):
        if any(one[key] != made[0][key] for one in made):
            raise UserError(f"the parts differ in their {key}: the source changed between them")
    tokenizer = load(made[0]["tokenizer"])
    state = State(wanted, made[0]["threshold"], [Counts() for _ in whole.names])
    state.tally, state.keys = made[0]["tally"], sum(one["keys"] for one in made)
    for one in made:
        for mine, counts in zip(state.shards, one["shards"], strict=True):
            mine.add(Counts(**counts))
    if not all(counts.tokens for counts in state.shards):
        return False
    shards.clear(whole.partial)
    widths = [token_dtype(tokenizer.vocab_size).itemsize] * len(whole.names)
    try:
        _deal(places, whole.partial, [*whole.names, shards.KEYS], [*widths, 8])
    except OSError as error:
        raise MachineError(f"cannot write to {whole.partial}: {error.strerror}") from None
    prepare.describe(whole, tokenizer, state)
    return True


def _deal(
    places: Sequence[Path], target: Path, names: Sequence[str], widths: Sequence[int]
) -> None:
    """Write each file from those of the parts, block by block."""
    lengths = [_read_lengths(place / LENGTHS, len(names)) for place in places]
    for column, (name, width) in enumerate(zip(names, widths, strict=True)):
        with ExitStack() as stack:
            out = stack.enter_context((target / name).open("wb"))
            parts: list[BinaryIO] = [
                stack.enter_context((place / name).open("rb")) for place in places
            ]
            for number in range(sum(map(len, lengths))):
                part, row = number % len(places), number // len(places)
                out.write(parts[part].read(int(lengths[part][row, column]) * width))
        durable.sync(target / name)
