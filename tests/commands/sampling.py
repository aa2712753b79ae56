"""`espalier sample`, called as from a shell."""

import pytest

from espalier import cli


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    code = cli.main(["sample", *map(str, words), "--device", "cpu"])
    caught = capsys.readouterr()
    return code, caught.out, caught.err
