"""What `espalier prepare new NAME` writes: a plug-in that works, and its test."""

import keyword
from pathlib import Path

from espalier.errors import UserError

PLUGIN = '''"""{name}: what it gives, and where that comes from."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from espalier.data.sources.plugins import Document, PluginConfig


class {config}(PluginConfig):
    """What a document is: here, a number written forwards and backwards.

    Fields are settings: espalier prepare ./{name}.py count=500
    """

    # files = "what its files are"     takes files: espalier prepare ./{name}.py FILE
    # tokenizer = "bpe"                where --tokenizer is left out; char as it is

    count: int = 1000
    """Documents."""
    seed: int = 0

    def documents(self, files: Sequence[Path], val_fraction: float) -> Iterator[Document]:
        chance = random.Random(self.seed)
        for _ in range(self.count):
            number = str(chance.randrange(10**6))
            yield Document(f"{{number}} {{number[::-1]}}")
'''
TEST = '''"""What {name} gives, worked by hand."""

from espalier.config import resolve
from espalier.data.sources.plugins import PluginConfig

{config} = resolve(PluginConfig, "./{name}.py")


def test_each_number_is_followed_by_its_mirror_image() -> None:
    for text, _ in {config}(count=20).documents((), 0.1):
        number, mirrored = text.split(" ")
        assert mirrored == number[::-1]


def test_it_gives_the_same_each_time() -> None:
    first, second = (list({config}(count=5).documents((), 0.1)) for _ in range(2))
    assert first == second
'''


def begin(name: str, folder: Path) -> tuple[Path, Path]:
    """Write NAME.py and test_NAME.py; UserError for a name that cannot be one, or is taken."""
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise UserError(f"'{name}' cannot be a file of Python code; use lower-case words_like_this")
    config = "".join(word.capitalize() for word in name.split("_")) + "Config"
    plugin, test = folder / f"{name}.py", folder / f"test_{name}.py"
    for file in (plugin, test):
        if file.exists():
            raise UserError(f"{file} is there already")
    plugin.write_text(PLUGIN.format(name=name, config=config), encoding="utf-8")
    test.write_text(TEST.format(name=name, config=config), encoding="utf-8")
    return plugin, test
