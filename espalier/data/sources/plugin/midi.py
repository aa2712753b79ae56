"""Music from MIDI files: notes with their waits and lengths on a grid, a document for each file."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from struct import error as StructError
from struct import unpack_from
from typing import NamedTuple

from pydantic import Field

from espalier.data.sources.plugins import Document, PluginConfig
from espalier.data.tokenizer.custom import CustomTokenizer
from espalier.errors import UserError

NOTE_OFF, NOTE_ON, PROGRAM, PRESSURE = 0x8, 0x9, 0xC, 0xD
META, SYSTEM = 0xFF, (0xF0, 0xF7)
DRUMS = 9


class Note(NamedTuple):
    """A pitch (60 is the middle C), when it begins and how long it sounds, in ticks or steps."""

    start: int
    pitch: int
    length: int


class MidiConfig(PluginConfig):
    """Each note is `wNN` for the steps since the last one, `pNNN` its pitch, `dNN` its length.

    All tracks and channels but the drums' together; notes of one step in order of pitch; velocity,
    tempo and instruments are left out. Waits beyond the longest are several; longer notes are cut.
    """

    files = "MIDI files (.mid)"
    grid: int = Field(default=4, ge=1, le=96)
    """Steps in a quarter note."""
    longest: int = Field(default=32, ge=1, le=99)
    """Steps of the longest wait and of the longest note."""

    def documents(self, files: Sequence[Path], val_fraction: float) -> Iterator[Document]:
        for file in files:
            ticks, notes = read(file)
            steps = {self._on_grid(note, ticks) for note in notes}
            yield Document(self._written(sorted(steps)))

    def vocabulary(self, files: Sequence[Path]) -> CustomTokenizer:
        steps = range(1, self.longest + 1)
        texts = [f"w{i:02d}" for i in steps] + [f"p{i:03d}" for i in range(128)]
        texts += [f"d{i:02d}\n" for i in steps]
        return CustomTokenizer({text: i for i, text in enumerate(texts)}, eot=len(texts))

    def _on_grid(self, note: Note, ticks: int) -> Note:
        start, length = (round(time * self.grid / ticks) for time in (note.start, note.length))
        return Note(start, note.pitch, min(max(1, length), self.longest))

    def _written(self, notes: Sequence[Note]) -> str:
        found, now = [], 0
        for start, pitch, length in notes:
            while start > now:
                wait = min(start - now, self.longest)
                found.append(f"w{wait:02d}")
                now += wait
            found.append(f"p{pitch:03d}d{length:02d}\n")
        return "".join(found)


def read(file: Path) -> tuple[int, list[Note]]:
    """Ticks in a quarter note, and the notes of a MIDI file (format 0 or 1), in ticks."""
    data = file.read_bytes()
    try:
        if data[:4] != b"MThd":
            raise UserError(f"{file} is no MIDI file")
        header, kind, tracks, ticks = unpack_from(">IHHH", data, 4)
        if kind > 1 or not 0 < ticks < 0x8000:
            raise UserError(f"{file}: MIDI of independent patterns or of film frames is not read")
        at, notes = 8 + header, []
        while at < len(data) and tracks:
            name, size = data[at : at + 4], unpack_from(">I", data, at + 4)[0]
            if name == b"MTrk":
                notes += _notes(_events(data[at + 8 : at + 8 + size]))
                tracks -= 1
            at += 8 + size
    except (IndexError, StructError):
        raise UserError(f"{file} is damaged: it ends in the middle of an event") from None
    if not notes:
        raise UserError(f"{file} has no notes")
    return ticks, notes


def _events(track: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Ticks from the beginning, status and data of each event."""
    at = tick = status = 0
    while at < len(track):
        delta, at = _length(track, at)
        tick += delta
        if track[at] & 0x80:
            status, at = track[at], at + 1
        if status == META or status in SYSTEM:
            size, at = _length(track, at + (status == META))
        else:
            size = 1 if status >> 4 in (PROGRAM, PRESSURE) else 2
        yield tick, status, track[at : at + size]
        at += size


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the place behind it."""
    value = 0
    while True:
        value = value << 7 | data[at] & 0x7F
        at += 1
        if not data[at - 1] & 0x80:
            return value, at


def _notes(events: Iterator[tuple[int, int, bytes]]) -> list[Note]:
    """Notes from their beginnings and ends; one that never ends sounds to the last event."""
    sounding: dict[tuple[int, int], int] = {}
    found: list[Note] = []
    tick = 0
    for tick, status, data in events:
        kind, channel = status >> 4, status & 0xF
        if kind not in (NOTE_ON, NOTE_OFF) or channel == DRUMS:
            continue
        key = channel, data[0]
        _end(sounding, key, tick, found)
        if kind == NOTE_ON and data[1]:
            sounding[key] = tick
    for key in list(sounding):
        _end(sounding, key, tick, found)
    return found


def _end(
    sounding: dict[tuple[int, int], int], key: tuple[int, int], tick: int, found: list[Note]
) -> None:
    if key in sounding:
        start = sounding.pop(key)
        found.append(Note(start, key[1], tick - start))


def notes(text: str) -> list[Note]:
    """The notes that a text writes, in steps; what is cut at its beginning or end is left out."""
    found, now = [], 0
    lengths: Mapping[str, int] = {"w": 3, "p": 4, "d": 4}
    at, pitch = 0, -1
    while at < len(text):
        size = lengths.get(text[at], 1)
        token = text[at : at + size]
        at += size
        if len(token) < size or size == 1:
            continue
        value = int(token[1:])
        if token[0] == "w":
            now += value
        elif token[0] == "p":
            pitch = value
        elif pitch >= 0:
            found.append(Note(now, pitch, value))
    return found
