"""The last step of a datatrove pipeline: what it has cleaned, as a corpus of each task.

    pipeline=[WarcReader(...), Trafilatura(), GopherQualityFilter(), Tokenise("web", "gpt2")]

Then `espalier prepare web/* --out data/web` puts them together. Needs datatrove, which no extra
of ours brings: https://github.com/huggingface/datatrove.
"""

import json
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep  # type: ignore[import-not-found]

from espalier.data.prepare import prepare
from espalier.data.request import Request


class Tokenise(PipelineStep):  # type: ignore[misc]
    """Documents into OUT/00003-of-00008; each document's own hash says which are for validation.

    A task needs two different documents or more, and room for its text while it is tokenised.
    """

    type, name = "TOKENIZER", "espalier"

    def __init__(
        self,
        out: str | Path,
        tokenizer: str = "gpt2",
        val_fraction: float = 0.0005,
        vocab: str | Path | None = None,
    ):
        """`tokenizer`, `val_fraction` and `vocab`: as `espalier prepare` has them."""
        super().__init__()
        self.out, self.tokenizer, self.val_fraction = Path(out), tokenizer, val_fraction
        self.vocab = None if vocab is None else Path(vocab)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        place = self.out / f"{rank:05d}-of-{world_size:05d}"
        texts = place.with_name(f"{place.name}.jsonl")
        self.out.mkdir(parents=True, exist_ok=True)
        with self.track_time(unit="task"):
            with texts.open("w", encoding="utf-8") as file:
                for document in data or ():
                    file.write(json.dumps({"text": document.text}, ensure_ascii=False) + "\n")
                    self.stat_update("total")
                    self.update_doc_stats(document)
            corpus = prepare(
                Request(
                    str(texts),
                    place,
                    self.tokenizer,
                    vocab=self.vocab,
                    val_fraction=self.val_fraction,
                    existing="overwrite",
                )
            )
            texts.unlink()
        for split, tokens in corpus.meta["tokens"].items():
            self.stat_update(f"{split}_tokens", value=tokens, unit="task")
