"""Numbers as people read them."""

import math

_STEPS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(number: float) -> str:
    """Three digits and a suffix: 124439808 -> 124M, 0.5 -> 0.5."""
    if not math.isfinite(number):
        return "n/a"
    for step, suffix in _STEPS:
        if abs(number) >= step * 0.9995:
            return f"{number / step:.3g}{suffix}"
    return f"{number:.3g}"


def size(number: float) -> str:
    """Decimal bytes: 1115394 -> 1.12 MB."""
    text = count(number)
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} bytes"


def duration(seconds: float) -> str:
    """Two units at most: 42 s, 3 min 20 s, 5 h 04 min, 2 d 3 h."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
