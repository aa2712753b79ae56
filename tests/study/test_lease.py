"""Who may take over a run from a machine that nobody here can look into."""

import json
import platform
from pathlib import Path

import pytest

from espalier import lock
from espalier.errors import UserError


def held_elsewhere(file: Path, lease: str) -> None:
    owner = {"pid": 1, "host": "another", "boot": "b", "start": "1", "lease": lease}
    file.write_text(json.dumps(owner), "utf-8")


def test_of_two_owners_of_one_lease_on_different_machines_the_former_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lock"
    held_elsewhere(file, "mine")
    assert lock.owner_of(file) is not None
    assert lock.owner_of(file, "mine") is None
    monkeypatch.setenv(lock.LEASE, "mine")
    with lock.hold(file):
        assert json.loads(file.read_text("utf-8"))["host"] == platform.node()


@pytest.mark.parametrize("mine", ["", "other"])
def test_without_its_lease_an_owner_on_another_machine_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: str
) -> None:
    file = tmp_path / "lock"
    held_elsewhere(file, "its own" if mine else "")
    monkeypatch.setenv(lock.LEASE, mine)
    with pytest.raises(UserError, match="in use by process 1 on another"), lock.hold(file):
        pass


def test_on_one_machine_a_lease_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(lock.LEASE, "mine")
    file = tmp_path / "lock"
    with lock.hold(file), pytest.raises(UserError, match="in use by process"), lock.hold(file):
        pass
