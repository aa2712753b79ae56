"""The README's table says what the pages of results say."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT

PAGE = """# A title

2026-11-{day}, commit {commit}, torch 2.13.0, a machine

| work | time |
|---|---|
| not a claim | 3 s |

| claim | against | measured | accepted |
|---|---|---|---|
| sorting | a peer | {ratio}x | 3x |

More words.
"""


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("table", ROOT / "benchmarks" / "table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_has_the_table_that_the_pages_give(table: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert table.placed(readme, table.table()) == readme, "run python benchmarks/table.py"


def test_the_newest_page_with_a_claim_counts(table: ModuleType, tmp_path: Path) -> None:
    for name, day, ratio in (("a", 21, 2), ("b", 23, 5), ("c", 22, 4)):
        text = PAGE.format(day=day, commit="abcdef012-dirty", ratio=ratio)
        (tmp_path / f"{name}.md").write_text(text, encoding="utf-8")
    assert table.table(tmp_path).splitlines()[2:] == [
        "| sorting | a peer | 5x | 3x | [2026-11-23](benchmarks/results/b.md), abcdef0 |"
    ]


def test_claims_are_read_as_they_were_stated(table: ModuleType) -> None:
    claims = [table.Claim("sorting", "a peer", "5x", "3x"), table.Claim("more", "none", "1 s")]
    assert table.claims_of("\n".join(["words", *table.stated(claims), ""])) == claims
    assert table.stated([]) == []
