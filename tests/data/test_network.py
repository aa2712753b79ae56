"""Downloads and streams against small servers on this machine: failures, pauses, fallbacks."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from espalier.data import blocks
from espalier.data import prepare as engine
from espalier.data.download import Retry, fetch
from espalier.data.prepare import prepare
from espalier.data.request import Listener, Request
from espalier.data.sources import builtin, hub, shakespeare
from espalier.data.sources.hub import Dataset, Stream
from espalier.data.sources.records import Rule
from espalier.errors import MachineError, UserError
from tests.data.stand_in import Site, serving
from tests.data.stand_in import hub as hub_files
from tests.data.test_tokenizers import hf_json

TEXT = b"known text\n" * 100


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def retry(pauses: list[float]) -> Retry:
    return Retry(attempts=4, first=0.5, sleep=pauses.append)


def known(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def test_a_download_pauses_longer_after_each_failure(retry: Retry, pauses: list[float]) -> None:
    with serving(Site({"/a": TEXT}, failures=3)) as site:
        file = fetch(f"{site.address}/a", "a", known(TEXT), "", retry)
    assert file.read_bytes() == TEXT
    assert pauses == [0.5, 1.0, 2.0]


def test_a_download_is_kept_and_not_asked_for_again(retry: Retry) -> None:
    with serving(Site({"/a": TEXT})) as site:
        for _ in range(2):
            fetch(f"{site.address}/a", "a", known(TEXT), "", retry)
        assert site.asked == ["GET /a"]


def test_a_changed_file_is_refused_and_not_kept(retry: Retry, tmp_path: Path) -> None:
    with serving(Site({"/a": TEXT + b"!"})) as site, pytest.raises(MachineError) as caught:
        fetch(f"{site.address}/a", "a", known(TEXT), "the way out", retry)
    assert "is not the known file" in str(caught.value)
    assert not (tmp_path / "cache" / "a").exists()


def test_a_missing_page_is_not_asked_for_twice(retry: Retry, pauses: list[float]) -> None:
    with serving(Site({})) as site, pytest.raises(MachineError, match="HTTP 404"):
        fetch(f"{site.address}/a", "a", known(TEXT), "", retry)
    assert pauses == []


def test_a_dead_server_is_one_error_with_the_way_out(retry: Retry, pauses: list[float]) -> None:
    with pytest.raises(MachineError, match="the way out"):
        fetch("http://127.0.0.1:9/a", "a", known(TEXT), "the way out", retry)
    assert len(pauses) == 1  # nobody listens there: that does not change in seconds


def test_what_is_tried_again_is_told(retry: Retry) -> None:
    told: list[str] = []
    speaking = replace(retry, note=told.append)
    with serving(Site({"/a": TEXT}, failures=2)) as site:
        fetch(f"{site.address}/a", "a", known(TEXT), "", speaking)
        assert told == [
            f"downloading {site.address}/a",
            "download: HTTP 503; attempt 2 of 4 in 0.5 s",
            "download: HTTP 503; attempt 3 of 4 in 1 s",
        ]


def test_shakespeare_is_downloaded_once_then_offline(
    shared_data: Path, tmp_path: Path, retry: Retry, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (shared_data / "tinyshakespeare.txt").read_bytes()
    with serving(Site({"/input.txt": text}, failures=1)) as site:
        monkeypatch.setattr(shakespeare, "URL", f"{site.address}/input.txt")
        corpus = prepare(Request("shakespeare", tmp_path / "s"), retry=retry)
    assert (len(corpus.train), len(corpus.val)) == (1_003_854, 111_540)
    assert prepare(Request("shakespeare", tmp_path / "t")).digest == corpus.digest


def test_shakespeare_offline_names_the_way_out(
    tmp_path: Path, retry: Retry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shakespeare, "URL", "http://127.0.0.1:9/input.txt")
    with pytest.raises(MachineError, match="--from FILE"):
        prepare(Request("shakespeare", tmp_path / "s"), retry=retry)
    assert not (tmp_path / "s").exists()


def test_another_text_is_not_shakespeare(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT)
    with pytest.raises(UserError, match="is not tiny Shakespeare"):
        prepare(Request("shakespeare", tmp_path / "s", local=tmp_path / "a.txt"))


class Flaky:
    """A stream of 200 examples that breaks at chosen places, each once."""

    def __init__(self, breaks: set[int]):
        self.breaks = breaks
        self.at = 0

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def __iter__(self) -> Iterator[dict[str, str]]:
        while self.at < 200:
            if self.at in self.breaks:
                self.breaks.discard(self.at)
                raise ConnectionError("the line is dead")
            self.at += 1
            yield {"text": f"document {self.at - 1}"}


def test_a_stream_that_breaks_goes_on_behind_its_last_document(
    retry: Retry, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks = {0, 5, 64, 130}

    def reopen(dataset: Dataset, state: Any) -> Flaky:
        stream = Flaky(breaks)
        if state is not None:
            stream.load_state_dict(state)
        return stream

    monkeypatch.setattr(hub, "_open", reopen)
    stream = Stream((Dataset("a"),), Rule(), lambda text: None, retry)
    texts = [piece.text for piece in stream.read(None, Counter())]
    assert texts == [f"document {i}" for i in range(200)]
    assert pauses == [0.5] * 4


def test_a_stream_that_stays_broken_stops_and_is_resumed(
    tmp_path: Path, retry: Retry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "COMMIT_EVERY", 0.0)
    monkeypatch.setattr(blocks, "BLOCK", 100)
    dead = {"at": 150}

    class Dies(Flaky):
        def __iter__(self) -> Iterator[dict[str, str]]:
            for example in super().__iter__():
                if self.at > dead["at"]:
                    raise ConnectionError("the line is dead")
                yield example

    def reopen(dataset: Dataset, state: Any) -> Flaky:
        stream = Dies(set())
        if state is not None:
            stream.load_state_dict(state)
        return stream

    monkeypatch.setattr(hub, "_open", reopen)
    request = Request("hf:a/b", tmp_path / "out", "byte")
    with pytest.raises(MachineError, match="Run the same command again"):
        prepare(request, retry=retry)
    dead["at"] = 1000
    notes: list[str] = []
    corpus = prepare(request, Listener(notes.append), retry)
    assert any("going on from" in note for note in notes)
    assert corpus.meta["documents"]["train"] + corpus.meta["documents"]["val"] == 200
    whole = prepare(Request("hf:a/b", tmp_path / "whole", "byte"), retry=retry)
    assert whole.digest == corpus.digest


@pytest.mark.parametrize(("dies_at", "first"), [(0, {}), (150, {"a/b": 150})])
def test_a_named_fallback_takes_over_and_the_corpus_says_from_where(
    dies_at: int,
    first: dict[str, int],
    tmp_path: Path,
    retry: Retry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Dies(Flaky):
        def __iter__(self) -> Iterator[dict[str, str]]:
            while self.at < dies_at:
                self.at += 1
                yield {"text": f"document {self.at - 1}"}
            raise ConnectionError("the line is dead")

    def reopen(dataset: Dataset, state: Any) -> Flaky:
        stream = Dies(set()) if dataset.path == "a/b" else Flaky(set())
        if state is not None:
            stream.load_state_dict(state)
        return stream

    monkeypatch.setattr(hub, "_open", reopen)
    notes: list[str] = []
    request = Request("hf:a/b", tmp_path / "out", "byte", fallback=("hf:c/d:small",))
    corpus = prepare(request, Listener(notes.append), retry)
    assert corpus.meta["source"]["read_from"] == first | {"c/d:small": 200}
    assert any("trying c/d:small" in note for note in notes)


def test_a_fallback_that_is_no_hub_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--fallback takes hf:ID"):
        prepare(Request("hf:a/b", tmp_path / "out", "byte", fallback=("more.txt",)))
    with pytest.raises(UserError, match="--fallback is for what is streamed"):
        prepare(Request("shared.txt", tmp_path / "out", "byte", fallback=("hf:a/b",)))


@pytest.mark.parametrize("name", ["openwebtext", "pile", "fineweb"])
def test_a_builtin_falls_back_to_its_next_source_and_records_it(
    tmp_path: Path, retry: Retry, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip("datasets")
    file = tmp_path / "local.jsonl"
    lines = [json.dumps({"text": f"document {i} " + "with words " * 5}) for i in range(150)]
    file.write_text("\n".join(lines), encoding="utf-8")
    datasets = (
        Dataset("json", data_files=str(tmp_path / "gone.jsonl")),
        Dataset("json", data_files=str(file)),
    )
    entry = builtin.BUILTINS[name]
    monkeypatch.setitem(builtin.BUILTINS, name, entry._replace(datasets=datasets))
    monkeypatch.setattr("espalier.data.job.check_disk", lambda job: None)
    monkeypatch.setattr(engine, "check_disk", lambda job: None)
    notes: list[str] = []
    request = Request(name, tmp_path / "out", "byte", val_fraction=0.1)
    corpus = prepare(request, Listener(notes.append), retry)
    assert any("trying json" in note for note in notes)
    assert any(entry.expected in note for note in notes)
    assert corpus.meta["source"]["read_from"] == {"json": 150}


def test_the_seeds_own_numbers_stand_in_the_table() -> None:
    table = builtin.BUILTINS
    assert (table["openwebtext"].tokenizer, table["openwebtext"].val_fraction) == ("gpt2", 0.0005)
    assert (table["pile"].tokenizer, table["pile"].val_fraction) == ("gpt-neox", 0.005)
    assert (table["pile"].target_tokens, table["pile"].min_chars) == (2_000_000_000, 50)
    assert table["fineweb"].tokenizer == "gpt2"


def run_with_hub(site: Site, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The hub's address is read when its client is imported, so each run is a process."""
    program = "import sys; from espalier.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | {"HF_ENDPOINT": site.address, "HF_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_hub_dataset_and_tokenizer_stream_from_a_stand_in_hub(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    lines = "".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(300)).encode()
    files = hub_files("some/texts", "data.jsonl", lines)
    files |= hub_files("some/tokenizer", "tokenizer.json", hf_json().encode(), "models")
    with serving(Site(files)) as site:
        done = run_with_hub(
            site,
            tmp_path / "home",
            "prepare",
            "hf:some/texts",
            "--tokenizer=hf:some/tokenizer",
            f"--out={tmp_path / 'out'}",
            "--json",
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["documents"]["train"] + found["documents"]["val"] == 300
    assert found["source"]["read_from"] == {"some/texts": 300}


def test_a_dataset_that_is_not_there_is_the_users_to_mend(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    with serving(Site({})) as site:
        site.missing = "RepoNotFound"
        done = run_with_hub(
            site, tmp_path / "home", "prepare", "hf:no/such", "--tokenizer=byte", "--out=o"
        )
    assert done.returncode == 2, done.stderr
    assert "no/such" in done.stderr
    assert "Traceback" not in done.stderr
