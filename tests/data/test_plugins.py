"""Sources that are programs: the shipped ones, one's own, and the template of a new one."""

import csv
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from espalier.config import names, resolve
from espalier.data import blocks
from espalier.data import prepare as engine
from espalier.data.corpus import Corpus
from espalier.data.prepare import prepare
from espalier.data.request import Request
from espalier.data.sources.plugin import midi
from espalier.data.sources.plugin.arithmetic import ArithmeticConfig
from espalier.data.sources.plugin.timeseries import numbers
from espalier.data.sources.plugins import PluginConfig
from espalier.data.sources.template import begin
from espalier.errors import ConfigError, UserError

DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def make(out: Path, source: str, *more: str | Path, **options: Any) -> Corpus:
    return prepare(Request(source, out, more=tuple(map(str, more)), **options))


def text_of(corpus: Corpus, split: str) -> str:
    tokens = corpus.train if split == "train" else corpus.val
    return corpus.tokenizer.decode(tokens.gather([0], len(tokens))[0])


def documents_of(corpus: Corpus, split: str) -> list[str]:
    return text_of(corpus, split).split("<|endoftext|>")[:-1]


def series(file: Path, rows: int = 200) -> Path:
    with file.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["day", "wave", "growth"])
        table.writerows([f"day {i}", f"{math.sin(i / 7):.6f}", i * i] for i in range(rows))
    return file


def pronunciations(file: Path) -> Path:
    entries = [f"WORD{i}  W ER{i % 3} D\nWORD{i}(1)\tW AO1 R D" for i in range(60)]
    file.write_text("\n".join([";;; a comment", *entries]), encoding="utf-8")
    return file


def tunes(file: Path) -> Path:
    tune = "X:{0}\nT:Tune {0}\nM:4/4\nK:D\nA2 d{0} | e4 |] % the end\n\n"
    file.write_text("%abc-2.1\n" + "".join(map(tune.format, range(30))), encoding="utf-8")
    return file


def games(file: Path) -> Path:
    game = (
        '[Event "{0}"]\n[Result "1-0"]\n\n1. e4 {{best by test}} e5 $1 2. Nf3! '
        "(2. f4 (2. d4) exf4)\n2... Nc6 {0}. Bb5 1-0\n\n"
    )
    file.write_text("".join(game.format(i) for i in range(3, 33)), encoding="utf-8")
    return file


def tones(file: Path) -> Path:
    """Two quarter notes of 96 ticks each (the second without an end), and a drum."""
    track = bytes.fromhex(
        "00ff510307a120"  # tempo
        "00903c40"  # middle C
        "00994040"  # a drum
        "60 3c00"  # after 96 ticks, in running status of channel 9: the drum's; then C's end
        "00903c00"
        "8100 904040"  # after 128 ticks, E
        "60ff2f00"
    )
    head = b"MThd" + (6).to_bytes(4, "big") + bytes.fromhex("000000010060")
    file.write_bytes(head + b"MTrk" + len(track).to_bytes(4, "big") + track)
    return file


def written(file: Path) -> Path:
    file.write_text("one stream of text " * 30, encoding="utf-8")
    return file


FILES: dict[str, Callable[[Path], Path]] = {
    "aligned": written,
    "chess": games,
    "midi": tones,
    "music": tunes,
    "phonemes": pronunciations,
    "timeseries": series,
}


@pytest.mark.parametrize("name", names(PluginConfig))
def test_a_plugin_gives_the_same_documents_each_time_and_says_what_it_reads(
    name: str, tmp_path: Path
) -> None:
    kind = resolve(PluginConfig, name)
    assert bool(kind.files) == (name in FILES), "a new plug-in that reads files needs one here"
    files = [FILES[name](tmp_path / "file")] if kind.files else []
    plugin = kind()
    first, second = (list(plugin.documents(files, 0.1)) for _ in range(2))
    assert first == second
    assert all(text.strip() for text, _ in first)
    assert f"`{name}`" in DOCS.read_text(encoding="utf-8")


def test_additions_are_right_distinct_and_never_in_both_splits(tmp_path: Path) -> None:
    corpus = make(tmp_path / "out", "arithmetic", "digits=2", "count=900", val_fraction=0.2)
    sides = [documents_of(corpus, split) for split in ("train", "val")]
    assert len(sides[0]) + len(sides[1]) == len({*sides[0], *sides[1]}) == 900
    assert 100 < len(sides[1]) < 260
    for problem in sides[0] + sides[1]:
        left, _, result = problem.partition("=")
        a, _, b = left.partition("+")
        assert int(a) + int(b) == int(result)


def test_sums_modulo_7_are_all_49_and_answers_can_be_reversed() -> None:
    modular = ArithmeticConfig(task="modular", modulus=7, count=None)
    found = [text for text, _ in modular.documents((), 0.1)]
    assert len(set(found)) == 49
    assert "5+4=2" in found
    every = ArithmeticConfig(digits=1, count=None, answer="reversed").documents((), 0.1)
    assert "9+3=21" in [text for text, _ in every]


def test_another_seed_gives_other_problems_and_a_bad_setting_is_named() -> None:
    one, two = (list(ArithmeticConfig(seed=seed).documents((), 0.1))[:5] for seed in (0, 1))
    assert one != two
    with pytest.raises(ConfigError, match=r"Did you mean 'digits'"):
        make(Path("unused"), "arithmetic", "digit=3")


@pytest.mark.parametrize("spread", ["width", "content"])
def test_a_time_series_comes_back_within_half_a_bin(tmp_path: Path, spread: str) -> None:
    file = series(tmp_path / "s.csv")
    corpus = make(tmp_path / "out", "timeseries", file, "bins=64", f"spread={spread}")
    assert corpus.vocab_size == 2 * 64 + 1
    assert len(corpus.train) == 180 * 2 + 1  # a token for each number, and the end
    found = numbers(text_of(corpus, "train"), corpus.meta["source"])
    true = np.array([[math.sin(i / 7), i * i] for i in range(180)])
    edges = np.array(corpus.meta["source"]["edges"])
    for column in range(2):
        places = np.searchsorted(edges[column][1:-1], true[:, column].round(6), side="right")
        half = np.diff(edges[column])[places] / 2
        assert (abs(found[:, column] - true[:, column].round(6)) <= half + 1e-9).all()


def test_the_bins_of_a_time_series_are_the_training_parts_alone(tmp_path: Path) -> None:
    corpus = make(tmp_path / "out", "timeseries", series(tmp_path / "s.csv"), "columns=[growth]")
    assert corpus.meta["source"]["edges"][0][-1] == 179**2
    late = numbers(text_of(corpus, "val"), corpus.meta["source"])
    assert len(set(late[:, 0].tolist())) == 1  # every later value is beyond the last edge


def test_only_whole_rows_of_a_written_series_are_read() -> None:
    source = {"edges": [[0.0, 1.0, 2.0], [0.0, 10.0, 20.0]]}
    text = "b1\na0b1\na1a1b0\nb0b0\na1b0\na1"
    assert numbers(text, source).tolist() == [[0.5, 15.0], [1.5, 5.0]]
    assert numbers("", source).shape == (0, 2)


@pytest.mark.parametrize(
    ("text", "words", "why"),
    [
        ("a,b\n1,2\n3,x\n", [], "row 2, b: 'x' is no number"),
        ("a,b\n1,2\n3,nan\n", [], "row 2, b: 'nan' is no number"),
        ("a,b\n1,2\n", [], "has 1 rows of numbers"),
        ("a,b\nx,y\nx,y\n", [], "0 columns of numbers; there are a, b"),
        ("a,b\n1,2\n3,4\n", ["columns=[c]"], "no column 'c'; there are a, b"),
        ("a,b\n1,2\n3,4\n", ["bins=1"], "at least 2"),
    ],
)
def test_a_table_that_is_no_series_is_refused(
    tmp_path: Path, text: str, words: list[str], why: str
) -> None:
    (tmp_path / "s.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=why):
        make(tmp_path / "out", "timeseries", tmp_path / "s.csv", *words)
    assert not (tmp_path / "out").exists()


def test_all_pronunciations_of_a_word_are_in_one_split(tmp_path: Path) -> None:
    file = pronunciations(tmp_path / "dict.txt")
    corpus = make(tmp_path / "out", "phonemes", file, "stress=drop", val_fraction=0.3)
    sides = [documents_of(corpus, split) for split in ("train", "val")]
    assert "word0 W ER D" in sides[0] + sides[1]
    words = [{text.split(" ")[0] for text in side} for side in sides]
    assert words[0]
    assert words[1]
    assert not words[0] & words[1]
    (tmp_path / "bad.txt").write_text("fine\tF AY1 N\nalone\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"bad.txt, line 2: not a word, a tab"):
        make(tmp_path / "bad", "phonemes", tmp_path / "bad.txt")


def test_tunes_are_documents_without_comments(tmp_path: Path) -> None:
    plugin = resolve(PluginConfig, "music")(fields="played")  # type: ignore[call-arg]
    found = [text for text, _ in plugin.documents([tunes(tmp_path / "a.abc")], 0.1)]
    assert len(found) == 30
    assert found[4] == "X:4\nM:4/4\nK:D\nA2 d4 | e4 |]\n"


def test_games_are_their_moves_and_result(tmp_path: Path) -> None:
    plugin = resolve(PluginConfig, "chess")()
    found = [text for text, _ in plugin.documents([games(tmp_path / "a.pgn")], 0.1)]
    assert found == ["e4 e5 Nf3 Nc6 Bb5 1-0"] * 30


def test_midi_notes_survive_as_text(tmp_path: Path) -> None:
    file = tones(tmp_path / "a.mid")
    assert midi.read(file) == (96, [midi.Note(0, 60, 96), midi.Note(224, 64, 96)])
    ((text, _),) = midi.MidiConfig().documents([file], 0.1)
    assert text == "p060d04\nw09p064d04\n"
    assert midi.notes(text) == [midi.Note(0, 60, 4), midi.Note(9, 64, 4)]
    made = midi.MidiConfig().vocabulary([file])
    assert made.decode(made.encode(text)) == text
    assert len(made.encode(text)) == 5
    for data, why in ((b"RIFF", "is no MIDI file"), (file.read_bytes()[:30], "is damaged")):
        (tmp_path / "b.mid").write_bytes(data)
        with pytest.raises(UserError, match=why):
            midi.read(tmp_path / "b.mid")


OWN = """
from espalier.data.sources.plugins import Document, PluginConfig

class MineConfig(PluginConfig):
    count: int = 30

    def documents(self, files, val_fraction):
        for i in range(self.count):
            yield Document(f"document {i}", "val" if i % 3 == 0 else "train")
"""


def test_aligned_texts_are_digits_of_one_token(tmp_path: Path) -> None:
    words, kinds = tmp_path / "words.txt", tmp_path / "kinds.txt"
    words.write_text("abca" * 10, encoding="utf-8")
    kinds.write_text("vccv" * 10, encoding="utf-8")
    corpus = make(tmp_path / "out", "aligned", words, kinds)
    assert corpus.meta["source"]["sizes"] == [3, 2]
    assert corpus.vocab_size == 7
    assert corpus.train.gather([0], 5)[0].tolist() == [1, 2, 4, 1, 1]  # av bc cc av av
    assert documents_of(corpus, "val") == ["avbcccav"]
    kinds.write_text("vc", encoding="utf-8")
    with pytest.raises(UserError, match=r"2 characters, .*words.txt 40: streams must be of one"):
        make(tmp_path / "other", "aligned", words, kinds)


def test_a_plugin_of_ones_own_chooses_the_sides(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN, encoding="utf-8")
    corpus = make(tmp_path / "out", str(tmp_path / "mine.py"), "count=9")
    assert documents_of(corpus, "val") == ["document 0", "document 3", "document 6"]
    assert len(documents_of(corpus, "train")) == 6
    assert len(corpus.meta["source"]["code"]) == 64


def test_other_python_files_are_texts(tmp_path: Path) -> None:
    (tmp_path / "text.py").write_text("print('hello world')\n" * 20, encoding="utf-8")
    corpus = make(tmp_path / "out", str(tmp_path / "text.py"), tokenizer="char")
    assert corpus.meta["source"]["kind"] == "text"


def test_a_plugin_that_is_interrupted_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 300)
    monkeypatch.setattr(engine, "COMMIT_EVERY", 0.0)
    whole = make(tmp_path / "whole", "arithmetic", "count=400")
    real, calls = engine.ShardWriter.add, iter(range(100))

    def add(self: Any, block: Any, ids: Any) -> None:
        real(self, block, ids)
        if next(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(engine.ShardWriter, "add", add)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "out", "arithmetic", "count=400")
    monkeypatch.setattr(engine.ShardWriter, "add", real)
    assert make(tmp_path / "out", "arithmetic", "count=400").digest == whole.digest


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("arithmetic", "file.txt"), "arithmetic reads no file, got file.txt"),
        (("timeseries",), "timeseries reads CSV files"),
        (("timeseries", "none.csv"), "no file none.csv"),
        (("arithmetc",), "Did you mean 'arithmetic'"),
    ],
)
def test_words_a_plugin_cannot_use_are_refused(words: tuple[str, ...], why: str) -> None:
    with pytest.raises(UserError, match=why):
        make(Path("unused"), *words)


def test_the_template_prepares_a_corpus_and_its_test_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    begin("mirrored", Path())
    corpus = make(tmp_path / "out", "./mirrored.py", "count=40")
    number, mirrored = documents_of(corpus, "train")[0].split(" ")
    assert mirrored == number[::-1]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mirrored.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout
    with pytest.raises(UserError, match="is there already"):
        begin("mirrored", Path())
    with pytest.raises(UserError, match="cannot be a file of Python code"):
        begin("My-Own", Path())


def test_meta_json_holds_the_settings(tmp_path: Path) -> None:
    make(tmp_path / "out", "arithmetic", "count=100")
    meta = json.loads((tmp_path / "out" / "meta.json").read_text(encoding="utf-8"))
    assert meta["source"]["settings"]["count"] == 100
    assert meta["source"]["name"] == "arithmetic"
