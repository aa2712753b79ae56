"""The command line: exit codes, one JSON object, quick help, verbs found by listing a folder."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from espalier import catalog, cli, console
from espalier.errors import MachineError, UserError


@pytest.fixture(autouse=True)
def people() -> None:
    console.want_json(False)


def run(*tokens: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "espalier", *tokens],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of verbs of our own, seen by the command line as its own."""
    import espalier.commands as package

    monkeypatch.setattr(cli, "COMMANDS", tmp_path)
    monkeypatch.setattr(package, "__path__", [str(tmp_path)])
    for name in [name for name in sys.modules if name.startswith("espalier.commands.")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path / "act.py"


def write_verb(file: Path, body: str) -> None:
    file.write_text(f'def act():\n    """Act."""\n    {body}\n', encoding="utf-8")


@pytest.mark.parametrize("line", [["--help"], ["parts"], ["recipes"], ["train", "--help"]])
def test_what_people_type_first_is_quick_and_leaves_torch_alone(line: list[str]) -> None:
    code = (
        "import sys; from espalier.cli import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'transformers'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    bare = work_of(["-c", ""])
    best = min(work_of(["-c", code, *line]) for _ in range(3))
    assert best - bare < 0.4, f"{best:.2f} s, of which Python itself {bare:.2f} s"


def work_of(words: list[str]) -> float:
    """Processor seconds that Python takes for them: other programs do not count."""
    before = os.times()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    after = os.times()
    assert done.returncode == 0, done.stderr
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system


def test_every_verb_explains_itself_with_an_example() -> None:
    for file in cli.COMMANDS.glob("[a-z]*.py"):
        text = cli.description(file)
        assert f"espalier {file.stem.rstrip('_')}" in text, f"{file}: no example in the docstring"
        assert len(text.partition("\n")[0]) < 100


def test_a_mistyped_verb_is_answered_with_the_nearest() -> None:
    done = run("dcotor")
    assert done.returncode == 2
    assert 'Did you mean "doctor"' in done.stderr
    assert done.stdout == ""


def test_a_mistyped_slot_is_answered_with_the_nearest() -> None:
    done = run("parts", "nrom")
    assert done.returncode == 2
    assert done.stderr == (
        f"error: no slot named 'nrom'. Did you mean 'norm'? Known: {', '.join(catalog.slots())}.\n"
    )


def test_json_is_one_object_on_stdout_wherever_the_flag_stands() -> None:
    for line in (["parts", "--json"], ["--json", "parts"]):
        done = run(*line)
        assert "rms" in json.loads(done.stdout)["norm"]
        assert "norm" in done.stderr


def test_errors_are_json_too() -> None:
    done = run("parts", "nrom", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["exit"] == 2
    assert json.loads(done.stdout)["error"].startswith("no slot named 'nrom'")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("no corpus at x"), 2, "error: no corpus at x"),
        (MachineError("disk full"), 3, "error: disk full"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device"), 3, "error: No space left on device"),
        (OSError(30, "Read-only", "runs/a"), 3, "error: runs/a: Read-only"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 3, "error: not enough memory"),
        (RuntimeError("Storage size calculation overflowed"), 3, "error: not enough memory"),
        (MemoryError(), 3, "error: not enough memory"),
        (OSError(36, "File name too long", "x" * 400), 2, "error: xxx"),
    ],
)
def test_whose_hand_it_was_decides_the_exit_code(
    error: BaseException, code: int, said: str, verb: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = type(error)
    call = f"{kind.__name__}{(*error.args, *filter(None, [getattr(error, 'filename', None)]))}"
    write_verb(verb, f"from {kind.__module__} import {kind.__name__}; raise {call}")
    assert cli.main(["act"]) == code
    assert capsys.readouterr().err.startswith(said)


def test_a_verb_that_was_interrupted_gives_json_too(
    verb: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_verb(verb, "raise SystemExit(143)")
    assert cli.main(["act", "--json"]) == 143
    assert json.loads(capsys.readouterr().out) == {"error": "interrupted", "exit": 143}


@pytest.mark.skipif(os.name == "nt", reason="a shell's redirections")
@pytest.mark.parametrize(
    ("redirections", "code", "out", "err"),
    [
        ("--json >&-", 0, "", "norm "),
        ("nrom 2>&-", 2, "", ""),
        ("--json >/dev/full", 3, "", "error: stdout: No space left on device\n"),
        (">/dev/full", 3, "", "error: No space left on device\n"),
        ("$(printf 'n\\377')", 2, "", "error: 'n\\udcff' is not UTF-8: rename it, or "),
    ],
)
def test_streams_that_are_closed_or_full_cause_no_traceback(
    redirections: str, code: int, out: str, err: str
) -> None:
    if "/dev/full" in redirections and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    line = f"{shlex.quote(sys.executable)} -m espalier parts {redirections}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, out)
    assert "Traceback" not in done.stderr
    assert err in done.stderr


def test_a_bug_is_one_line_and_its_traceback_a_file(
    verb: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_verb(verb, "return {}['absent']")
    assert cli.main(["act"]) == 1
    said, place = capsys.readouterr().err.strip().split("\ntraceback in ")
    assert said == "bug: KeyError: 'absent'"
    kept = Path(place)
    assert "act.py" in kept.read_text(encoding="utf-8")
    kept.unlink()


def test_what_a_verb_returns_is_what_json_prints(
    verb: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_verb(
        verb,
        "return {'loss': float('nan'), 'at': (1, 2.5), 'path': __import__('pathlib').Path('a')}",
    )
    assert cli.main(["act", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"loss": None, "at": [1, 2.5], "path": "a"}


def test_tokens_a_verb_does_not_know_can_pass_through_to_it(
    verb: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = """
from typing import Annotated
from cyclopts import Parameter

def act(
    recipe: str | None = None, /,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True)],
    out: str | None = None,
):
    return {"recipe": recipe, "overrides": overrides, "out": out}
"""
    verb.write_text(source, encoding="utf-8")
    line = ["act", "config/x.py", "--batch_size=4", "model.n_layer=2", "--out", "runs/x", "--json"]
    assert cli.main(line) == 0
    assert json.loads(capsys.readouterr().out) == {
        "recipe": "config/x.py",
        "overrides": ["--batch_size=4", "model.n_layer=2"],
        "out": "runs/x",
    }


def test_a_reader_that_leaves_early_is_no_error() -> None:
    line = f"{sys.executable} -m espalier parts | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_part_and_recipe_is_listed_with_a_sentence() -> None:
    for slot in catalog.slots().values():
        for part in catalog.parts(slot):
            assert part.summary, f"{slot.name}/{part.name} has no first line"
    for name, header in catalog.recipes().items():
        assert header, f"recipe {name} has no header comment"


def test_the_catalog_reads_settings_without_importing_them() -> None:
    rms = next(p for p in catalog.parts(catalog.slot("norm")) if p.name == "rms")
    eps = next(setting for setting in rms.settings if setting.name == "eps")
    assert (eps.kind, float(eps.default)) == ("float", 1e-5)
