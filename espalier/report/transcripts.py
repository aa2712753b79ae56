"""Pages as a model read them: image, truth and transcript side by side, in one HTML file."""

import base64
import io
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from espalier.evaluate.tables import spread

STYLE = Path(__file__).with_name("style.css")
WIDEST = 640  # pixels of an image as shown


def page(title: str, record: Mapping[str, Any]) -> str:
    """A self-contained document of what `evaluate --ocr` found."""
    rows = "\n".join(_row(one) for one in record["each"])
    cells = (f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in _facts(record))
    table = "".join(cells)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} · Espalier</title>
<style>
{STYLE.read_text(encoding="utf-8")}
.read {{ display: grid; grid-template-columns: 1fr 1fr 1fr; gap: 1rem; margin: 0 0 2rem; }}
.read img {{ max-width: 100%; border: 1px solid #ccc; }}
.read pre {{ white-space: pre-wrap; margin: 0; }}
.read ins {{ background: #f6d5c5; text-decoration: none; }}
.read del {{ background: #dfe9d5; text-decoration: none; }}
</style>
</head>
<body>
<header><h1>{escape(title)}</h1></header>
<table>{table}</table>
<p>Left the image, in the middle what stands on it, on the right what the model wrote. Green is
missing on the right, red stands there and should not.</p>
{rows}
</body>
</html>
"""


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
    from rapidfuzz.distance import Levenshtein

    left: list[str] = []
    right: list[str] = []
    for edit in Levenshtein.opcodes(truth, found):
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
