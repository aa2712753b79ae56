"""`espalier prepare SOURCE`: text into a corpus of token shards."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from espalier import console
from espalier.errors import UserError

if TYPE_CHECKING:
    from espalier.data.corpus import Corpus
    from espalier.data.request import Request

COMMONEST = 10  # tokens that --stats names
CORPUS = ("meta.json", "train.bin")  # one of them is in every corpus, nanoGPT's too


@Parameter(name="*")
@dataclass(frozen=True)
class Images:
    """Samples with images."""

    samples: int | None = None
    """At most so many; of synthetic-ocr, how many images are drawn."""
    image_mode: str | None = None
    """How they are read where a run does not say: tiny, small, base, large, gundam, or the side of
    a square in pixels. Left out, base; for synthetic-ocr, its own size."""
    data_dir: Annotated[Path | None, Parameter(name=("--data-dir", "--data_dir"))] = None
    """A folder with train.json, as nano-deepseek-ocr has it, in place of a source."""

    def source(self, given: str) -> str:
        if self.data_dir is not None and given:
            raise UserError(f"--data-dir {self.data_dir} is the source itself; leave {given} out")
        return given if self.data_dir is None else str(self.data_dir)


def prepare(
    source: str = "",
    /,
    *more: str,
    tokenizer: str | None = None,
    out: Path | None = None,
    vocab: Path | None = None,
    vocab_size: int | None = None,
    special: Path | None = None,
    local: Annotated[Path | None, Parameter(name="--from")] = None,
    fallback: list[str] | None = None,
    val_fraction: float | None = None,
    target_tokens: float | None = None,
    shards: int = 1,
    text_key: str | None = None,
    errors: Literal["strict", "replace"] = "strict",
    skip_bad: bool = False,
    overwrite: bool = False,
    processes: int | None = None,
    stats: bool = False,
    chat: str | None = None,
    shard: str | None = None,
    images: Images = Images(),
) -> dict[str, Any]:
    """Tokenise a text, or many, into a corpus: shards of token ids and meta.json.

    Streams with bounded memory; after a kill the same command goes on where it stopped.

    For example:

        espalier prepare shakespeare --tokenizer char --out data/shakespeare
        espalier prepare notes.txt more.jsonl --tokenizer bpe --vocab-size 4096
        espalier prepare timeseries prices.csv bins=128
        espalier prepare new mine
        espalier prepare ./mine.py count=5000
        espalier prepare synthetic-ocr --samples 12 kinds=lines side=128 --out data/lines
        espalier prepare --data-dir my_receipts

    Parameters
    ----------
    source
        A text file, a folder, a glob in quotes, .jsonl, .jsonl.gz or .parquet; hf:ID or
        hf:ID:CONFIG; or python-stdlib, shakespeare, openwebtext, pile, fineweb; or a plug-in:
        arithmetic, timeseries, aligned, phonemes, music, midi, chess, or a .py of your own; or
        `new`; or a prepared corpus, to put it together with others of the same tokenizer; or
        samples with images: synthetic-ocr, finevision:SUBSET, smoltalk, olmocr, fox, omnidocbench,
        or a folder with train.json, a .json or (with --chat) a .jsonl that names images.
    more
        More sources for the same corpus; after a plug-in its files and settings (key=value); after
        `new` the name of the plug-in to begin.
    tokenizer
        char, byte, bpe or sentencepiece (trained here), gpt2, r50k_base, p50k_base, cl100k_base,
        o200k_base, gpt-neox, hf:ID, a tokenizer.json, sentencepiece:FILE.model, a list of tokens
        (custom:FILE, custom-byte:FILE, json:FILE), or a corpus, for the tokenizer that wrote it.
        Left out, what suits the source.
    out
        The directory to make. Left out, data/NAME.
    vocab
        A local vocabulary for the tokenizer: a folder or file, such as one with vocab.bpe.
    vocab_size
        Ids of a bpe or sentencepiece trained here; 2048 when left out.
    special
        A file of texts that become one token each: a line each, or JSON, with ids or without.
    local
        A copy of shakespeare's text, or of a table or folder of samples with images.
    fallback
        hf:ID to take when the source does not answer; may be given several times.
    val_fraction
        The share for validation: the end of one text; of many documents, those whose hash says so.
    target_tokens
        Stop after the document that reaches so many tokens; 2e9 is a number.
    shards
        How many files the training tokens are dealt to.
    text_key
        The field or column of a record that holds its text; `text` when left out.
    errors
        What to do with bytes that are no UTF-8: refuse the file, or put U+FFFD in their place.
    skip_bad
        Leave out records without usable text, and count them.
    overwrite
        Replace another corpus in the output directory.
    processes
        How many processes encode. Left out, as many as are worth their start.
    stats
        Count the tokens too: how often they occur, how many bytes one stands for. For a corpus
        that is there already: espalier prepare data/shakespeare --stats
    chat
        The lines of a .jsonl are conversations, {"messages": [{"role": …, "content": …}, …]}, to be
        written with this template: chatml, plain, nanochat, or a .yaml; only answers are learnt.
    shard
        Tokenise part i of N alone, such as 3/8. Parts lie beside --out; whichever process finds
        them all there joins them to the corpus that one process would have made.
    """
    source = images.source(source)
    if source == "new":
        return _begin(more)
    if stats and not more and any((Path(source) / name).is_file() for name in CORPUS):
        return _count(Path(source))
    from espalier.data.request import Request

    request = Request(
        source=source,
        out=out or Path("data") / _name(source),
        tokenizer=tokenizer,
        vocab=vocab,
        vocab_size=vocab_size,
        local=local,
        fallback=tuple(fallback or ()),
        val_fraction=val_fraction,
        target_tokens=_whole("--target-tokens", target_tokens),
        shards=shards,
        text_key=text_key,
        errors=errors,
        bad="skip" if skip_bad else "refuse",
        existing="overwrite" if overwrite else "keep",
        processes=processes,
        more=more,
        special=special,
    )
    if shard is not None:
        if chat is not None or images != Images():
            raise UserError("--shard is for plain text, not for conversations or images")
        return _part(request, shard)
    found = _made(request, images, chat)
    return found | (_count(Path(found["corpus"])) if stats else {})


def _made(request: "Request", images: Images, chat: str | None) -> dict[str, Any]:
    """Samples with images, conversations or text."""
    from espalier.data.prepare import prepare as make
    from espalier.data.request import Listener

    if images.data_dir is not None or _is_pictured(request.source, chat):
        return _pictured(request, images, chat)
    if images != Images():
        raise UserError("--samples and --image-mode are for samples with images")
    if chat is not None:
        return _chat(request, chat)
    with ExitStack() as stack:
        return _told(make(request, Listener(console.say, _meter(stack))))


def _told(corpus: "Corpus") -> dict[str, Any]:
    found = {"corpus": str(corpus.path), "digest": corpus.digest} | _facts(corpus.meta)
    for line in _summary(found):
        console.out(line)
    return found


def _part(request: "Request", shard: str) -> dict[str, Any]:
    from espalier.data import parts
    from espalier.data.request import Listener

    part = parts.parse(shard)
    with ExitStack() as stack:
        found = parts.prepare_part(request, part, Listener(console.say, _meter(stack)))
    if not isinstance(found, list):
        return _told(found)
    place, missing = part.place(request.out), ", ".join(f"{i}/{part.count}" for i in found)
    console.out(f"part: {place}" + (f"; still to come: {missing}" if missing else ""))
    return {"part": str(place), "missing": found}


def _is_pictured(source: str, chat: str | None) -> bool:
    """Whether a source's samples have images; lines of JSON are looked at where they are chats."""
    from espalier.data.sources.page.local import is_local
    from espalier.data.sources.pictured import is_pictured

    text = source.endswith(".jsonl") and chat is None
    return is_pictured(source) or (not text and is_local(source))


def _pictured(request: "Request", images: Images, chat: str | None) -> dict[str, Any]:
    from espalier.data import illustrated
    from espalier.data.request import Listener
    from espalier.data.sources.pictured import configured, is_pictured

    name, place = request.source, request.local
    if not is_pictured(name):
        name, place = "local", Path(name)
    val_fraction = request.val_fraction or illustrated.VAL_FRACTION
    pages = configured(name, request.more, place, images.samples, val_fraction)
    named = replace(request, tokenizer=request.tokenizer or pages.config.tokenizer)
    with ExitStack() as stack:
        listener = Listener(console.say, _meter(stack))
        mode = images.image_mode or pages.config.mode()
        corpus = illustrated.prepare(named, pages, listener, chat, mode)
    keys = ("vocab_size", "dtype", "tokens", "learnt", "documents", "left_out", "source", "split")
    found: dict[str, Any] = {"corpus": str(corpus.path), "digest": corpus.digest}
    found |= {"images": corpus.meta["images"]} | {key: corpus.meta[key] for key in keys}
    for split, share in found["learnt"].items():
        tokens, said = found["tokens"][split], found["documents"][split]
        console.out(f"{split}: {said:,} samples, {tokens:,} tokens of text, {share:,} learnt")
    shown = found["images"]
    console.out(f"{shown['count']:,} images, read as {shown['mode']} where a run does not say")
    if found["left_out"]:
        console.out(f"left out: {found['left_out']:,}, listed in {corpus.path / 'left-out.jsonl'}")
    console.out(f"corpus: {corpus.path}")
    return found


def _chat(request: "Request", template: str) -> dict[str, Any]:
    from espalier.data import chat, conversations
    from espalier.data.request import Listener

    corpus = conversations.prepare(request, chat.named(template), Listener(console.say))
    keys = ("vocab_size", "dtype", "tokens", "learnt", "documents", "source", "split")
    found: dict[str, Any] = {"corpus": str(corpus.path), "digest": corpus.digest}
    found |= {"chat": template} | {key: corpus.meta[key] for key in keys}
    for split, share in found["learnt"].items():
        tokens, said = found["tokens"][split], found["documents"][split]
        console.out(f"{split}: {said:,} conversations, {tokens:,} tokens, {share:,} of them learnt")
    console.out(f"corpus: {corpus.path}")
    return found


def _begin(words: tuple[str, ...]) -> dict[str, Any]:
    from espalier.data.sources.template import begin

    if len(words) != 1:
        raise UserError("say: espalier prepare new NAME")
    plugin, test = begin(words[0], Path())
    for line in (f"wrote {plugin}", f"wrote {test}", f"Use it: espalier prepare ./{plugin}"):
        console.out(line)
    return {"files": [plugin, test]}


def _count(path: Path) -> dict[str, Any]:
    """Statistics of both splits, said and returned."""
    from espalier.data.corpus import Corpus
    from espalier.data.stats import statistics

    corpus = Corpus.open(path)
    found = {}
    for split in ("train", "val"):
        seen = statistics(corpus, split)
        console.out(f"\n{split}: {seen.tokens:,} tokens of {seen.types:,} types")
        console.out(f"  type/token ratio {seen.type_token_ratio:.4g}, {seen.entropy:.3f} bits each")
        if seen.bytes_per_token is not None:
            console.out(f"  {seen.bytes_per_token:.3f} bytes of text to a token")
        for least, most, types in seen.histogram():
            times = "never" if not most else f"{least:,} to {most:,} times"
            console.out(f"  {types:>9,} ids occur {times}")
        common = ((corpus.tokenizer.decode([i]), n) for i, n in seen.commonest(COMMONEST))
        console.out(f"  commonest: {', '.join(f'{text!r} {n:,}' for text, n in common)}")
        found[split] = {
            "tokens": seen.tokens,
            "types": seen.types,
            "type_token_ratio": seen.type_token_ratio,
            "bytes_per_token": seen.bytes_per_token,
            "entropy": seen.entropy,
            "histogram": seen.histogram(),
            "commonest": seen.commonest(COMMONEST),
        }
    return {"statistics": found}


def _whole(name: str, value: float | None) -> int | None:
    """2e9 as a whole number."""
    if value is not None and not math.isfinite(value):
        raise UserError(f"{name} must be a finite number, got {value}")
    return None if value is None else int(value)


def _name(source: str) -> str:
    """A folder's name for a source: its last part, without ending or wildcards."""
    last = source.removeprefix("hf:").replace(":", "-").rstrip("/").rpartition("/")[2]
    kept = "".join(c for c in last.partition(".")[0] if c.isalnum() or c in "-_")
    return kept or "corpus"


def _meter(stack: ExitStack) -> Callable[[float, float | None, str], None]:
    """Progress as the console shows it, opened when the first figure arrives."""
    shown: list[console.Progress] = []
    before = 0.0

    def show(done: float, total: float | None, unit: str) -> None:
        nonlocal before
        if not shown:
            shown.append(stack.enter_context(console.progress(total, "prepare", unit)))
        shown[0].advance(max(0.0, done - before))
        before = done

    return show


def _facts(meta: dict[str, Any]) -> dict[str, Any]:
    keys = ("vocab_size", "dtype", "tokens", "bytes", "documents", "replaced", "source", "split")
    found = {key: meta[key] for key in keys} | {"fallback": meta.get("fallback")}
    return found | {"tokenizer": meta["settings"]["tokenizer"]["name"]}


def _summary(found: dict[str, Any]) -> list[str]:
    tokens, documents, source = found["tokens"], found["documents"], found["source"]
    hashed = f", SHA-256 {source['sha256'][:12]}" if "sha256" in source else ""
    lines = [
        f"{source['name']}{hashed}, as {found['tokenizer']} with {found['vocab_size']:,} ids",
        f"{tokens['train']:,} training and {tokens['val']:,} validation tokens ({found['dtype']})",
    ]
    if found["split"]["rule"] == "document-hash":
        lines.append(
            f"{documents['train']:,} and {documents['val']:,} documents, "
            f"{documents['duplicates']:,} of them repeat another"
        )
    left_out = [f"{documents[key]:,} {key}" for key in ("blank", "skipped") if documents[key]]
    if left_out:
        lines.append(f"left out: {', '.join(left_out)}")
    if found["fallback"] is not None:
        bytes_, single = (sum(found[key].values()) for key in ("bytes", "fallback"))
        lines.append(f"{single:,} bytes fell back to single bytes ({single / bytes_:.3%} of them)")
    if found["replaced"]:
        lines.append(f"{found['replaced']:,} characters replaced by U+FFFD")
    lines += [f"read from {label}: {n:,}" for label, n in source.get("read_from", {}).items()]
    return [*lines, f"corpus: {found['corpus']}"]
