"""`espalier parts new`: a copy that works at once, in the checkout or in a folder of one's own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from espalier import catalog, scaffold
from espalier.config import decode, encode
from espalier.errors import UserError
from espalier.nn.gpt import GPTConfig, make
from espalier.tree import override


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own, with the package installed and no checkout around it."""
    monkeypatch.setattr(scaffold, "in_checkout", lambda root: False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("slot", ["norm", "activation", "ffn", "attention", "position", "block"])
def test_a_new_part_outside_the_package_builds_a_model(slot: str, elsewhere: Path) -> None:
    begun = scaffold.begin(catalog.slot(slot), "spiky", None, elsewhere)
    path, _, value = begun.use.partition("=")
    sizes = {"n_layer": 1, "n_embd": 8, "n_head": 2, "block_size": 4, "vocab_size": 5}
    tree = encode(decode(GPTConfig, sizes))
    make(decode(GPTConfig, override(tree, path.removeprefix("model."), value)), 1)


def test_its_test_passes_as_written(elsewhere: Path) -> None:
    scaffold.begin(catalog.slot("norm"), "spiky", "rms", elsewhere)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_spiky.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout


def test_in_a_checkout_it_goes_where_the_suite_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = catalog.slot("norm")
    source = slot.folder / "rms.py"
    folder = tmp_path / "espalier" / "nn" / "norm"
    folder.mkdir(parents=True)
    (folder / "rms.py").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text("", encoding="utf-8")
    monkeypatch.setattr(catalog, "PACKAGE", tmp_path / "espalier")
    copy = catalog.Slot(slot.name, slot.base, slot.home, folder, slot.summary)
    begun = scaffold.begin(copy, "two_words", None, tmp_path)
    part, test = (file.relative_to(tmp_path).as_posix() for file in begun.files)
    assert part == "espalier/nn/norm/two_words.py"
    assert test == "tests/nn/norm/test_two_words.py"
    assert begun.use == "model.block.norm=two_words"
    text = begun.files[0].read_text(encoding="utf-8")
    names = [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    assert names == ["TwoWordsConfig", "TwoWords"]
    assert "Began as rms" in text
    with pytest.raises(UserError, match="is there already"):
        scaffold.begin(copy, "two_words", None, tmp_path)
