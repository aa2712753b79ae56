"""Our own exports: a configuration from elsewhere runs no code."""

import json
from pathlib import Path

import pytest

from espalier.errors import UserError
from espalier.pretrained import own


@pytest.mark.parametrize("how", ["{file}", "os.path", {"name": "{file}"}, [{"name": "os.path"}]])
def test_a_part_from_outside_is_refused_however_it_is_written(tmp_path: Path, how: object) -> None:
    code, ran = tmp_path / "mine.py", tmp_path / "ran"
    code.write_text(f"open({str(ran)!r}, 'w')\n", encoding="utf-8")
    norm = json.loads(json.dumps(how).replace("{file}", str(code)))
    model = {"vocab_size": 65, "block": {"norm": norm}}
    (tmp_path / "config.json").write_text(json.dumps({"model": model}), encoding="utf-8")
    with pytest.raises(UserError, match="is code from outside, which is not run"):
        own.read(tmp_path)
    assert not ran.exists()
