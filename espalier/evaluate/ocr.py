"""Does a model read its images, or does it guess?

Teacher forcing tells a model every answer but its last token, so a low loss alone shows nothing.
Beside it stand the loss with another page's image and with white paper; features of different
images are compared (an encoder that has collapsed gives all the same); and what the model writes
by itself is held against the truth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from espalier.data.album import Album
from espalier.data.chat import ANSWERS, Message
from espalier.data.corpus import Corpus
from espalier.data.images import Mode, Views
from espalier.data.samples import Split, Told, samples
from espalier.data.settings import ImagesConfig
from espalier.engine.chat import Asked, Chat
from espalier.engine.generate import Options
from espalier.engine.loops import NoRepeat, loops
from espalier.engine.sampling import Sampling
from espalier.errors import UserError
from espalier.evaluate.loss import Autocast, begin, evaluating, spread, token_losses
from espalier.evaluate.transcript import Match, match, rates
from espalier.intervals import ratio
from espalier.nn.slots import Front
from espalier.nn.state import Pass

COLLAPSED = 0.999  # cosine of different images' features; an encoder known to have failed: .9998
SPARE = 1.5  # so many times as long as the truth an answer may become


@dataclass(frozen=True)
class How:
    """How pages are read."""

    rows: int
    """answers that are written side by side"""
    new: int | None = None
    """tokens of an answer, at most; None: half as many again as the truth has"""
    no_repeat: NoRepeat | None = None
    autocast: Autocast = contextlib.nullcontext
    between: Callable[[int], None] = lambda done: None

    def options(self, longest: int) -> Options:
        """Greedy; for an answer whose truth has so many tokens."""
        new = self.new or int(SPARE * longest) + 8
        greedy = Sampling(temperature=0)
        return Options(new, sampling=greedy, no_repeat=self.no_repeat, stop_loops=True)


class Pictures(Mapping[int, Views]):
    """Images by their numbers, decoded when they are looked at: many pages fill no memory."""

    def __init__(self, album: Album, how: Mode, numbers: Sequence[int]):
        self.album, self.how, self.numbers = album, how, tuple(dict.fromkeys(numbers))

    def __getitem__(self, number: int) -> Views:
        return self.album.views(number, self.how)

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


class Question(NamedTuple):
    """A sample's last answer, and what comes before it."""

    name: str
    file: Path
    """its first image"""
    told: Told
    views: Mapping[int, Views]
    """its images by their numbers"""
    truth: str


class Page(NamedTuple):
    """What became of a question."""

    question: Question
    loss: float
    """nats per token of the answer, each told what comes before it"""
    wrong: float | None
    """with another page's images; None where no other has images of these shapes"""
    blank: float
    """with white paper"""
    found: str
    match: Match
    looped: bool


def questions(
    corpus: Corpus, images: ImagesConfig, split: Split, most: int | None
) -> list[Question]:
    """At most so many samples with images of a split, evenly spread."""
    corpus.seeing(images)
    if corpus.images is None:
        raise UserError(f"{corpus.path} has no images: --ocr wants a corpus that has")
    told = [one for one in samples(corpus, split) if one.images]
    if not told:
        raise UserError(f"{corpus.path}: no sample of its {split} split has an image")
    chosen = spread(np.arange(len(told)), most).tolist()
    return [question(corpus, split, told[i]) for i in chosen]


def question(corpus: Corpus, split: Split, one: Told) -> Question:
    """A sample with images of a corpus, which are read as it is set to."""
    album, sights = corpus.images, getattr(corpus, split).sights
    assert album is not None
    views = Pictures(album, sights.mode, one.images)
    return Question(one.id, album.file(one.images[0]), one, views, one.answer)


def read(session: Chat, asked: Sequence[Question], how: How) -> Iterator[Page]:
    """Put every question, in order. `how.between(questions done)` may raise."""
    with evaluating(session.model):
        for first in range(0, len(asked), how.rows):
            here = asked[first : first + how.rows]
            for place, text in enumerate(written(session, here, how.options), first):
                yield _page(session, asked, place, text, how)
                how.between(1)


@torch.no_grad()
def _page(session: Chat, asked: Sequence[Question], place: int, text: str, how: How) -> Page:
    one = asked[place]
    other = _other(asked, place)
    blank = {number: _white(view) for number, view in one.views.items()}
    return Page(
        one,
        loss=_loss(session, one, how),
        wrong=None if other is None else _loss(session, one._replace(views=other), how),
        blank=_loss(session, one._replace(views=blank), how),
        found=text,
        match=match(one.truth, text),
        looped=loops(session.tokenizer.encode(text).tolist()),
    )


def written(
    session: Chat, asked: Sequence[Question], options: Callable[[int], Options]
) -> list[str]:
    """What the model answers, with the `options` for a truth as long as the longest here."""
    prompts = [session.asked(one.told.question, one.views) for one in asked]
    longest = max(len(session.speaker.plain.encode(one.truth)) for one in asked)
    return [one.text for one in session.answers(prompts, options(longest))]


def _loss(session: Chat, one: Question, how: How) -> float:
    ids, targets, asked = taught(session, one)
    device = next(session.model.parameters()).device
    assert asked.sight is not None
    slots = F.pad(asked.sight.slots, (0, ids.shape[1] - len(asked.ids)), value=-1)
    sight = asked.sight._replace(slots=slots, positions=torch.arange(ids.shape[1])[None])
    ids, targets = ids.to(device), targets.to(device)
    with how.autocast():
        parts = token_losses(session.model, ids, targets, begin(session.model, ids, None, sight))
    return float(torch.cat(parts).double().sum()) / int((targets >= 0).sum())


def taught(session: Chat, one: Question) -> tuple[Tensor, Tensor, Asked]:
    """The answer behind what was asked, as inputs and targets (1, time), and what was asked."""
    asked = session.asked(one.told.question, one.views)
    known = len(session.speaker.asked(one.told.question).ids)
    whole = session.speaker.conversation([*one.told.question, Message(ANSWERS, one.truth)])
    answer, learnt = whole.ids[known:], whole.learnt[known:]
    ids = torch.tensor([[*asked.ids, *answer]])
    wanted = torch.tensor([[False] * len(asked.ids) + learnt])
    return ids[:, :-1], torch.where(wanted, ids, -1)[:, 1:], asked


def fitting(session: Chat, asked: Sequence[Question]) -> list[Question]:
    """Those that the model's block holds with their answers."""
    return [one for one in asked if taught(session, one)[0].shape[1] <= session.block_size]


def _other(asked: Sequence[Question], place: int) -> dict[int, Views] | None:
    """The next question's images, in place of one's own: alike in shape, and not the same."""
    own = asked[place].views
    for other in (*asked[place + 1 :], *asked[:place]):
        views = list(other.views.values())
        alike = list(map(_shape, own.values())) == list(map(_shape, views))
        if alike and not all(map(_same, own.values(), views)):
            return dict(zip(own, views, strict=True))
    return None


def _same(one: Views, other: Views) -> bool:
    return torch.equal(one.whole, other.whole)


def _shape(view: Views) -> tuple[torch.Size, torch.Size | None]:
    return view.whole.shape, None if view.tiles is None else view.tiles.shape


def _white(view: Views) -> Views:
    whole, tiles = view
    return Views(torch.ones_like(whole), None if tiles is None else torch.ones_like(tiles))


@torch.no_grad()
def cosine(front: Front, asked: Sequence[Question]) -> float | None:
    """Mean cosine between the features of different images; None where there is but one.

    Of the whole images of the commonest size. What no image changes, newlines and separators,
    counts for nothing.
    """
    device = next(front.parameters()).device
    sizes: dict[torch.Size, list[Tensor]] = {}
    for one in {one.file: one for one in asked}.values():  # several may ask about one image
        whole = next(iter(one.views.values())).whole.to(device)
        features = front([(whole, None)], Pass(torch.zeros(1, 1, dtype=torch.long, device=device)))
        sizes.setdefault(features.shape, []).append(features.flatten().double().cpu())
    found = torch.stack(max(sizes.values(), key=len))
    if len(found) < 2:
        return None
    found = found[:, (found != found[0]).any(0)]
    if not found.shape[1]:
        return 1.0
    total, count = F.normalize(found).sum(0), len(found)
    return float((total @ total - count) / (count * (count - 1)))


def record(pages: Sequence[Page], left_out: int, alike: float | None, seed: int) -> dict[str, Any]:
    """Everything as plain numbers; of each page too, in order."""
    pairs = [(page.loss, page.wrong) for page in pages if page.wrong is not None]
    told = rates([page.match for page in pages], seed)
    wrong = _mean([wrong for _, wrong in pairs], seed) if pairs else None
    return {
        "pages": len(pages),
        "too_long": left_out,
        **{name: interval._asdict() for name, interval in told._asdict().items()},
        "loss": _mean([page.loss for page in pages], seed),
        "wrong_image": wrong,
        "blank_image": _mean([page.blank for page in pages], seed),
        "wrong_over_right": _over(pairs),
        "feature_cosine": alike,
        "collapsed": alike is not None and alike > COLLAPSED,
        "loops": sum(page.looped for page in pages) / len(pages),
        "each": [_one(page) for page in pages],
    }


def _over(pairs: Sequence[tuple[float, float]]) -> float | None:
    return sum(wrong for _, wrong in pairs) / sum(right for right, _ in pairs) if pairs else None


def _mean(values: Sequence[float], seed: int) -> dict[str, float | None]:
    found: dict[str, float | None] = ratio(np.array(values), np.ones(len(values)), seed)._asdict()
    return found


def _one(page: Page) -> dict[str, Any]:
    return {
        "id": page.question.name,
        "image": str(page.question.file),
        "loss": page.loss,
        "wrong_image": page.wrong,
        "blank_image": page.blank,
        "overlap": page.match.overlap,
        "exact": page.match.exact,
        "cer": page.match.edits / max(1, page.match.characters),
        "looped": page.looped,
        "truth": page.question.truth,
        "found": page.found,
    }
