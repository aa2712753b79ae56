"""From the command line to a launcher; what cannot be is one line, before any run."""

import sys
from pathlib import Path

import pytest

from espalier.errors import MachineError, UserError
from espalier.study.launch import choose
from espalier.study.launch.choose import Where
from espalier.study.launch.local import Local


def test_the_threads_of_this_machine_are_divided_among_its_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("espalier.device.cores", lambda: 8)
    where = Where(device="cpu", workers=3)
    found = choose.launcher(where, choose.book(tmp_path, where), {})
    assert isinstance(found, Local)
    assert [(one.number, one.device, one.threads) for one in found.workers] == [
        (0, "cpu", 2),
        (1, "cpu", 2),
        (2, "cpu", 2),
    ]


def test_a_study_past_one_machine_is_absolute_and_each_call_has_a_lease_of_its_own() -> None:
    one, other = (choose.book(Path("studies/x"), Where("ray")) for _ in range(2))
    assert one.place == Path.cwd() / "studies/x"
    assert one.lease != other.lease != ""
    assert choose.book(Path("studies/x"), Where()).lease == ""


def test_settings_of_slurm_are_numbers_and_words() -> None:
    assert choose.settings(["partition=gpu", "time=600"]) == {"partition": "gpu", "time": 600}
    with pytest.raises(UserError, match="--slurm takes key=value, such as partition=gpu; got gpu"):
        choose.settings(["gpu"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"workers": 0}, "--workers must be at least 1, got 0"),
        ({"threads": -2}, "--threads must be at least 1, got -2"),
        ({"slurm": {"time": 60}}, "--slurm belongs to --on slurm"),
    ],
)
def test_what_makes_no_sense_is_said(asked: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Where(**asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("on", "module", "extra"), [("ray", "ray", "ray"), ("slurm", "submitit", "dist")]
)
def test_a_missing_engine_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    where = Where(on)
    with pytest.raises(MachineError, match=rf"this needs {module}: pip install 'espalier\[{extra}"):
        choose.launcher(where, choose.book(tmp_path, where), {})
