"""A preparation killed with no chance to tidy up, and its memory."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import sys, time
from pathlib import Path
from espalier.data import blocks, prepare as engine
from espalier.data.request import Request

if __name__ == "__main__":
    source, out, processes, pause = sys.argv[1:]
    blocks.BLOCK, engine.COMMIT_EVERY = 2000, 0.0
    real = engine.ShardWriter.add

    def slow(self, block, ids):
        real(self, block, ids)
        time.sleep(float(pause))

    engine.ShardWriter.add = slow
    engine.prepare(Request(source, Path(out), "bpe", vocab_size=300, processes=int(processes)))
"""


def start(folder: Path, *arguments: object) -> subprocess.Popen[bytes]:
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, str(folder / "program.py"), *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)


def wait_for_work(process: subprocess.Popen[bytes], state: Path, least: int) -> None:
    limit = time.monotonic() + 60
    while time.monotonic() < limit and process.poll() is None:
        try:
            counts = json.loads(state.read_text(encoding="utf-8"))["shards"]
            if sum(shard["tokens"] for shard in counts) > least:
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.005)
    pytest.fail("nothing was committed")


def hashes(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_started_again_the_corpus_is_byte_identical(
    tmp_path: Path, processes: int
) -> None:
    source = tmp_path / "a.jsonl"
    texts = [f"document {i} " + f"with word {i % 13} " * 20 for i in range(600)]
    source.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    assert start(tmp_path, source, tmp_path / "whole", 1, 0).wait(60) == 0
    for least in (0, 5000):
        victim = start(tmp_path, source, tmp_path / "out", processes, 0.02)
        wait_for_work(victim, tmp_path / "out.partial" / "state.json", least)
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        assert not (tmp_path / "out").exists()
    assert start(tmp_path, source, tmp_path / "out", processes, 0).wait(60) == 0
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")
    assert not (tmp_path / "out.partial").exists()


MEASURED = """
import resource, sys
from pathlib import Path
from espalier.data.prepare import prepare
from espalier.data.request import Request

if __name__ == "__main__":
    source, out, tokenizer, processes = sys.argv[1:]
    prepare(Request(source, Path(out), tokenizer, processes=int(processes)))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", ["lines.txt", "one-line.txt", "records.jsonl"])
@pytest.mark.parametrize(("tokenizer", "processes"), [("char", 1), ("bpe", 1), ("bpe", 2)])
def test_memory_does_not_grow_with_the_input(
    tmp_path: Path, kind: str, tokenizer: str, processes: int
) -> None:
    """The reading process, its tokenizer included, stays under 500 MiB (workers not counted)."""
    pytest.importorskip("resource")
    line = "some words of a long text that repeats itself, number {} of many; " * 2
    source = tmp_path / kind
    with source.open("w", encoding="utf-8") as stream:
        for i in range(200_000_000 // (len(line) + 8)):
            text = line.format(i, i)
            end = "" if kind == "one-line.txt" else "\n"
            stream.write((json.dumps({"text": text}) if "jsonl" in kind else text) + end)
    program = tmp_path / "program.py"
    program.write_text(MEASURED, encoding="utf-8")
    command = [sys.executable, program, source, tmp_path / "out", tokenizer, str(processes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 500
