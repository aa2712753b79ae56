"""Tiny Shakespeare, as nanoGPT's shakespeare_char takes it (Karpathy's char-rnn)."""

from pathlib import Path

from espalier.data.download import Retry, fetch
from espalier.data.sources.textfile import TextFiles
from espalier.durable import digest
from espalier.errors import UserError

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
WAY_OUT = "If you have the text already: espalier prepare shakespeare --from FILE"


def tiny_shakespeare(local: Path | None = None, retry: Retry | None = None) -> TextFiles:
    """The text, from `local`, the cache, or its address; always the known file."""
    if local is None:
        file = fetch(URL, "shakespeare/input.txt", SHA256, WAY_OUT, retry)
    elif not local.is_file():
        raise UserError(f"--from {local}: no such file")
    elif (found := digest(local)) != SHA256:
        raise UserError(
            f"--from {local} is not tiny Shakespeare: SHA-256 {found[:12]}, not {SHA256[:12]}. "
            f"For a text of your own: espalier prepare {local}"
        )
    else:
        file = local
    facts = (("kind", "shakespeare"), ("name", "tiny Shakespeare"))
    return TextFiles((file,), file.parent, facts, one=True)
