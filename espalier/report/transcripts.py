"""Pages as a model read them: image, truth and transcript side by side, in one HTML file."""

import base64
import io
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from espalier.errors import need
from espalier.evaluate.tables import spread
from espalier.report import html

LEGEND = (
    "Left the image, in the middle what stands on it, on the right what the model wrote. "
    "Green is missing on the right, red stands there and should not."
)
WIDEST = 640  # pixels of an image as shown


def page(title: str, record: Mapping[str, Any]) -> str:
    """A self-contained document of what `evaluate --ocr` found."""
    cells = (f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in _facts(record))
    rows = "\n".join(_row(one) for one in record["each"])
    return html.document(title, LEGEND, [("", f"<table>{''.join(cells)}</table>"), ("", rows)])


def _facts(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    names = {
        "exact": "Exact, share of pages",
        "cer": "Character error rate",
        "wer": "Word error rate",
        "ned": "Normalised edit distance",
        "overlap": "Overlap of words",
        "loss": "Loss",
        "wrong_image": "Loss with another page's image",
        "blank_image": "Loss with white paper",
    }
    yield "Pages", str(record["pages"])
    for key, name in names.items():
        if record[key] is not None:
            yield name, spread(record[key])


def _row(one: Mapping[str, Any]) -> str:
    truth, found = one["truth"].strip(), one["found"].strip()
    kept, written = marked(truth, found)
    told = (
        f"{one['id']}: loss {one['loss']:.4f}, overlap {one['overlap']:.3f}, CER {one['cer']:.3f}"
    )
    return (
        f'<p class="label">{escape(told)}</p><div class="read">'
        f'<div><img alt="" src="{picture(Path(one["image"]))}"></div>'
        f"<pre>{kept}</pre><pre>{written}</pre></div>"
    )


def marked(truth: str, found: str) -> tuple[str, str]:
    """Both as HTML: what one has and the other lacks is in <del>, or in <ins>."""
    left: list[str] = []
    right: list[str] = []
    for edit in need("rapidfuzz.distance", "vision").Levenshtein.opcodes(truth, found):
        left += _part("del", edit.tag, truth[edit.src_start : edit.src_end])
        right += _part("ins", edit.tag, found[edit.dest_start : edit.dest_end])
    return "".join(left), "".join(right)


def _part(element: str, tag: str, text: str) -> Iterator[str]:
    if text:
        yield escape(text) if tag == "equal" else f"<{element}>{escape(text)}</{element}>"


def picture(file: Path) -> str:
    """The image as a data URL, made smaller where it is wide."""
    from espalier.data.images import read

    image = read(file)
    image.thumbnail((WIDEST, 4 * WIDEST))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
