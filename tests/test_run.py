"""The run directory: what is committed stays, what is damaged is found, one process writes."""

import errno
import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espalier import lock
from espalier.errors import MachineError, UserError
from espalier.run import MANIFEST, MODEL, STATE, Run, verify


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", {"seed": 1}, {"python": "3"})


def weights(content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / MODEL).write_bytes(content)

    return write


def save(run: Run, step: int, val_loss: float | None = None, keep: int = 9) -> Path:
    return run.commit(step, weights(b"w%d" % step), {"val_loss": val_loss}, keep=keep)


def test_a_run_opens_with_the_configuration_it_was_made_with(run: Run) -> None:
    again = Run.open(run.path)
    assert again.config == {"seed": 1}
    assert again.environment == {"python": "3"}


def test_a_run_is_never_made_over_another(run: Run) -> None:
    with pytest.raises(UserError, match="exists already; choose another --out"):
        Run.create(run.path, {}, {})


def test_what_an_interrupted_create_leaves_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text("{}", encoding="utf-8")
    (tmp_path / "config.yaml.tmp-12345678").write_text("se", encoding="utf-8")
    (tmp_path / f"lock.{'0' * 32}").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="exists already"):
        Run.create(tmp_path.parent / tmp_path.name / "..", {}, {})
    assert Run.create(tmp_path, {"seed": 2}, {}).config == {"seed": 2}


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.touch()])
def test_what_is_no_run_is_said_to_be_none(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x")
    with pytest.raises(UserError, match=r"no run"):
        Run.open(tmp_path / "x")


# metrics


def test_a_torn_last_line_is_left_out_and_a_torn_line_within_is_an_error(run: Run) -> None:
    run.log({"kind": "train", "step": 1, "loss": float("nan")})
    with (run.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "tr')
    assert run.metrics() == [{"kind": "train", "step": 1, "loss": None}]
    run.log({"kind": "train", "step": 2})
    with pytest.raises(UserError, match=r"metrics.jsonl:2"):
        run.metrics()


def test_a_line_that_is_no_record_is_named(run: Run) -> None:
    (run.path / "metrics.jsonl").write_text('{"kind": "eval"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"metrics\.jsonl:1: no record, it has no kind and step"):
        run.metrics()


def test_rewinding_forgets_later_steps_and_a_torn_line(run: Run) -> None:
    for step in (1, 2, 3):
        run.log({"kind": "train", "step": step})
        run.log({"kind": "eval", "step": step})
    with (run.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "tr')
    run.rewind(2)
    assert [record["step"] for record in run.metrics()] == [1, 1, 2, 2]
    run.rewind(2, evaluated=False)
    assert [record["kind"] for record in run.metrics()] == ["train", "eval", "train"]


# checkpoints


def test_a_checkpoint_names_every_file_with_its_hash(run: Run) -> None:
    folder = save(run, 500)
    assert folder == run.path / "checkpoints" / "step-00000500"
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    assert sorted(manifest["files"]) == [MODEL, STATE]
    assert manifest["files"][MODEL] == {  # printf w500 | sha256sum
        "size": 4,
        "sha256": "ab69664ed9aecda1449a648f06a345c32cc1dd06208210668aa96789171b2afb",
    }
    assert verify(folder) is None


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([MODEL, STATE, MANIFEST]), st.floats(0, 1), st.integers(0, 7))
def test_any_flipped_bit_is_found(
    tmp_path_factory: pytest.TempPathFactory, name: str, place: float, bit: int
) -> None:
    run = Run.create(tmp_path_factory.mktemp("r") / "run", {}, {})
    run.commit(1, weights(bytes(range(256))), {"val_loss": 1.5})
    file = run.checkpoint(1) / name
    data = bytearray(file.read_bytes())
    where = min(len(data) - 1, int(place * len(data)))
    data[where] ^= 1 << bit
    before, after = file.read_bytes(), bytes(data)
    file.write_bytes(after)
    if name == MANIFEST and _same_json(before, after):
        return  # a space for another space
    assert verify(run.checkpoint(1)) is not None
    assert run.latest() is None
    assert len(run.skipped) == 1


def _same_json(a: bytes, b: bytes) -> bool:
    try:
        return bool(json.loads(a) == json.loads(b))
    except ValueError:
        return False


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda c: (c / MODEL).unlink(), "model.safetensors is missing"),
        (lambda c: (c / MODEL).write_bytes(b""), "model.safetensors has 0 bytes, 2 were written"),
        (lambda c: (c / MODEL).write_bytes(b"W3"), "model.safetensors has changed since"),
        (lambda c: (c / MANIFEST).unlink(), "MANIFEST.json is missing: it was never completed"),
        (lambda c: (c / MANIFEST).write_bytes(b'{"st'), "MANIFEST.json is damaged"),
        (lambda c: (c / MANIFEST).write_bytes(b"[1]"), "MANIFEST.json is damaged"),
        (
            lambda c: shutil.copy(c.with_name("step-00000002") / MANIFEST, c / MANIFEST),
            "MANIFEST.json is of step 2",
        ),
    ],
)
def test_a_damaged_checkpoint_is_skipped_for_the_one_before_it_and_named(
    run: Run, damage: Callable[[Path], object], said: str
) -> None:
    for step in (1, 2, 3):
        save(run, step)
    damage(run.checkpoint(3))
    assert run.latest() == run.checkpoint(2)
    assert len(run.skipped) == 1
    assert "step-00000003: " + said in run.skipped[0]


def test_the_best_and_the_last_two_are_kept(run: Run) -> None:
    for step, loss in enumerate([3.0, 1.0, 2.0, None, 2.5, None], 1):
        save(run, step, loss, keep=2)
    assert run.steps() == [2, 5, 6]
    assert run.best() == run.checkpoint(2)
    assert run.latest() == run.checkpoint(6)


def test_nothing_is_deleted_before_the_new_one_was_found_sound(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(run, 1)
    monkeypatch.setattr("espalier.run.verify", lambda checkpoint: "broken")
    save(run, 2, keep=1)
    assert run.steps() == [1, 2]


def test_saving_a_step_again_replaces_it(run: Run) -> None:
    save(run, 1)
    run.commit(1, weights(b"new"), {"val_loss": 2.0})
    assert (run.checkpoint(1) / MODEL).read_bytes() == b"new"
    assert verify(run.checkpoint(1)) is None
    assert [file.name for file in (run.path / "checkpoints").iterdir()] == ["step-00000001"]


def test_a_kill_between_two_names_loses_nothing(run: Run) -> None:
    folder = save(run, 1)
    folder.rename(folder.with_name("step-00000001.was"))
    (run.path / "checkpoints" / "step-00000002.tmp-12345678").mkdir()
    with run.lock():
        assert run.latest() == folder
        assert run.steps() == [1]
    assert [file.name for file in (run.path / "checkpoints").iterdir()] == ["step-00000001"]


def test_a_full_disk_is_noticed_before_anything_is_written(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(run, 1)
    usage = shutil.disk_usage(run.path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(MachineError, match=r"step 2 .* No space left on device .*untouched"):
        run.commit(2, weights(b"w"), {}, size=900)
    assert run.latest() == run.checkpoint(1)


@pytest.mark.parametrize("operation", ["sync", "rename", "write_json", "write"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_at_any_step_leaves_the_old_checkpoint_and_no_rest(
    run: Run, monkeypatch: pytest.MonkeyPatch, operation: str, code: int
) -> None:
    save(run, 1)

    def fail(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    write = weights(b"w2") if operation != "write" else fail
    with monkeypatch.context() as patched:
        if operation != "write":
            patched.setattr(f"espalier.run.{operation}", fail)
        with pytest.raises(MachineError, match=os.strerror(code)):
            run.commit(2, write, {})
    assert run.latest() == run.checkpoint(1)
    assert [file.name for file in (run.path / "checkpoints").iterdir()] == ["step-00000001"]


# the lock


def owner(**changed: object) -> str:
    me = {"pid": os.getpid(), "host": platform.node(), "boot": lock._boot()}
    return json.dumps({**me, "start": lock._start(os.getpid()), **changed})


def test_a_place_without_room_keeps_nothing_of_a_new_run_or_lock(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*words: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("espalier.run.write_whole", full)
    with pytest.raises(MachineError, match=r"cannot write .*new: No space left"):
        Run.create(tmp_path / "new", {}, {})
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(MachineError, match="No space left"), run.lock():
        pass
    assert not list(run.path.glob("lock*"))


def test_a_second_writer_is_refused_and_told_who_is_first(run: Run) -> None:
    with (
        run.lock(),
        pytest.raises(UserError, match=f"in use by process {os.getpid()} on"),
        Run.open(run.path).lock(),
    ):
        pass
    with run.lock():
        pass
    assert not (run.path / "lock").exists()


@pytest.mark.skipif(lock._start(os.getpid()) is None, reason="start times need /proc")
@pytest.mark.parametrize(
    "text",
    [owner(pid=2**22 + 1), owner(start="1"), owner(boot="another"), ""],
    ids=["no such process", "its number was given away", "the machine was restarted", "torn"],
)
def test_a_dead_owners_lock_is_taken_over(run: Run, text: str) -> None:
    (run.path / "lock").write_text(text, encoding="utf-8")
    with run.lock():
        assert lock.owner_of(run.path / "lock") is not None
    assert [file.name for file in run.path.glob("lock*")] == []


def test_a_lock_of_another_host_is_left_alone(run: Run) -> None:
    (run.path / "lock").write_text(owner(host="elsewhere"), encoding="utf-8")
    with pytest.raises(UserError, match="on elsewhere"), run.lock():
        pass
    assert (run.path / "lock").exists()
