"""Samples read again by the model that wrote them: in colour, as heatmaps, and in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier.durable import write_whole
from espalier.report import analysis, colours, heatmaps, seen
from espalier.report.colours import Mode, Piece

if TYPE_CHECKING:
    from espalier.engine.generate import Options
    from espalier.engine.text import Session
    from espalier.engine.trace import Trace

CANDIDATES = 8  # likeliest tokens that a heatmap shows


class Reread:
    """`samples` (name -> token ids) after `prompt`, as the session's model sees them.

    Windows are those of generation, so that the numbers are the ones that were drawn from, up to
    rounding. Past the block of the rule `crop` that is a pass for each token.
    """

    def __init__(
        self, session: Session, prompt: str, samples: Mapping[str, Sequence[int]], options: Options
    ):
        self.session, self.options = session, options
        self.before = session.encode(prompt)
        self.names = [name for name, ids in samples.items() if ids]
        self.samples = [list(samples[name]) for name in self.names]
        self.traces = self._trace()
        self.words = [seen.texts(session.tokenizer, self.before, ids) for ids in self.samples]

    def _trace(self) -> list[Trace]:
        from espalier.engine.repel import Repulsion, table
        from espalier.engine.trace import Look, trace

        cosine, sampling = self.options.cosine, self.options.sampling
        look = Look(
            sampling.temperature,
            self.session.tokenizer.vocab_size,
            candidates=CANDIDATES,
            repulsion=None if cosine is None else Repulsion(table(self.session.model), cosine),
        )
        model, size, first = self.session.model, self.session.block_size, len(self.before)
        return [
            trace(model, [*self.before, *ids], first, size, rule=self.options.rule, look=look)
            for ids in self.samples
        ]

    @property
    def divergence(self) -> float:
        """Mean KL(before || after) of the cosine penalty over all tokens, in nats."""
        total = sum(float(trace.divergence.sum()) for trace in self.traces)
        return total / max(1, sum(map(len, self.samples)))

    def coloured(self, mode: Mode) -> list[list[Piece]]:
        """The prompt and the pieces of each sample."""
        start = Piece(self.session.tokenizer.decode(self.before))
        found = []
        for ids, trace, words in zip(self.samples, self.traces, self.words, strict=True):
            cosines = self._likeness(ids) if mode == "dot" else ()
            found.append([start, *seen.pieces(mode, trace, words, self.reddest, cosines)])
        return found

    @property
    def reddest(self) -> int:
        """The rank that is red: top-k's, or the last."""
        return self.options.sampling.top_k or self.session.tokenizer.vocab_size

    def _likeness(self, ids: Sequence[int]) -> list[float]:
        """The cosine of each token's embedding with the one before."""
        import torch

        from espalier.engine.repel import directions

        device = next(self.session.model.parameters()).device
        whole = torch.tensor([self.before[-1], *ids], device=device)
        found = directions(self.session.model, whole)
        cosines: list[float] = (found[1:] * found[:-1]).sum(-1).tolist()
        return cosines

    def save_page(self, mode: Mode, folder: Path) -> Path:
        """FOLDER/MODE.html."""
        low, high = colours.legend(mode, self.reddest)
        sections = [
            (name, f"red: {low}; green: {high}", pieces)
            for name, pieces in zip(self.names, self.coloured(mode), strict=True)
        ]
        folder.mkdir(parents=True, exist_ok=True)
        page = folder / f"{mode}.html"
        write_whole(page, colours.page(f"Samples by {mode}", sections))
        return page

    def save_heatmaps(self, folder: Path, *, each: bool) -> list[Path]:
        """Of each sample its steps' candidates and its min-max chart; `each`: and every token's."""
        files: list[Path] = []
        told = zip(self.names, self.traces, self.words, strict=True)
        for number, (name, trace, words) in enumerate(told, 1):
            places = seen.places(trace, words, self.session.tokenizer)
            drawn: dict[str, Any] = {
                f"heatmap-{number}": heatmaps.heatmap(f"Candidates: {name}", places),
                f"minmax-{number}": heatmaps.minmax(f"Logits: {name}", places),
            }
            files += analysis.write(drawn, folder)
            if each:
                files += analysis.write(dict(heatmaps.each(places)), folder / f"tokens-{number}")
        return files
