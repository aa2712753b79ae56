"""What every test shares: the threads it may use, and the texts that only some machines have."""

import os
from pathlib import Path

# Processes beside each other would otherwise fight over the cores. Set before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

import tests.shapes  # noqa: F401 - the shape checks look it up as an attribute of `tests`
from espalier import console

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Tiny Shakespeare, tokenizer files …: in ESPALIER_TEST_DATA, or beside the checkout."""
    place = Path(os.environ.get("ESPALIER_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not place.is_dir():
        pytest.skip("no shared texts here; set ESPALIER_TEST_DATA to a folder that has them")
    return place


@pytest.fixture(autouse=True)
def words_for_people() -> None:
    """Where a test called the command line with --json, the next one starts without."""
    console.want_json(False)
