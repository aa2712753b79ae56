"""Results on stdout, remarks on stderr, progress as a bar or as lines."""

import math

import pytest

from espalier import console, units


@pytest.fixture(autouse=True)
def people() -> None:
    console.want_json(False)


def test_results_join_the_remarks_when_stdout_belongs_to_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.out("a result")
    console.say("a remark")
    assert capsys.readouterr() == ("a result\n", "a remark\n")
    console.want_json(True)
    console.out("a result")
    assert capsys.readouterr() == ("", "a result\n")


def test_pace_says_how_far_how_fast_and_how_long_still() -> None:
    assert console.pace(250, 2000, 8, "steps") == "250 of 2k steps, 31.2 steps/s, 56 s left"
    assert console.pace(250, None, 8, "") == "250, 31.2/s"
    assert console.pace(0, 2000, 0, "steps") == "0 of 2k steps, 0 steps/s, ? left"


def test_progress_without_a_terminal_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 4.0, 10.0, 12.0, 16.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.progress(40, "reading", "MB") as bar:
        bar.note("from a.txt")
        for _ in range(3):
            bar.advance(10)
    assert capsys.readouterr().err == (
        "reading: 20 of 40 MB, 2 MB/s, 10 s left, from a.txt\nreading: 30 MB in 16 s, from a.txt\n"
    )


def test_progress_on_a_terminal_is_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "on_terminal", lambda stream: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with console.progress(4, "reading", "MB") as bar:
        bar.advance(4)
    written = capsys.readouterr()
    assert "4 of 4 MB" in written.err
    assert written.out == ""


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (0.25, "0.25"), (999, "999"), (999.9, "1k"), (124439808, "124M"), (2.5e9, "2.5G")],
)
def test_counts_have_three_digits_and_a_suffix(number: float, text: str) -> None:
    assert units.count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (59.4, "59 s"),
        (200, "3 min 20 s"),
        (18240, "5 h 04 min"),
        (2 * 86400 + 3 * 3600, "2 d 3 h"),
        (math.inf, "?"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


def test_sizes_are_decimal_bytes() -> None:
    assert units.size(1115394) == "1.12 MB"
    assert units.size(512) == "512 bytes"
