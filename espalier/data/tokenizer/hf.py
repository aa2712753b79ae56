"""Any fast Hugging Face tokenizer, from its `tokenizer.json`."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from espalier.data.tokenizer.base import END_OF_TEXT, Ids, checked, scrub
from espalier.errors import UserError, need

ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "[SEP]")


class HfTokenizer:
    """`source` is the text of a tokenizer.json; `end` names its end-of-text token."""

    def __init__(self, source: str, identity: str, end: str | None = None):
        try:
            self._inner = need("tokenizers", "hf").Tokenizer.from_str(source)
        except Exception as error:  # the binding raises a bare Exception
            if type(error) is not Exception:
                raise
            raise UserError(f"{identity} is not a Hugging Face tokenizer.json: {error}") from None
        self._inner.encode_special_tokens = True
        self._inner.no_padding()
        self._inner.no_truncation()
        self.identity = identity
        self.end = end or next((e for e in ENDS if self._inner.token_to_id(e) is not None), None)
        self.eot: int | None = None if self.end is None else self._inner.token_to_id(self.end)
        vocabulary = self._inner.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values()) + 1
        added = self._inner.get_added_tokens_decoder().items()
        self.special = {token.content: i for i, token in added if token.special}
        self.source = source

    def encode(self, text: str) -> Ids:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        found = self._inner.encode_batch_fast(
            [scrub(text) for text in texts], add_special_tokens=False
        )
        return [np.array(item.ids, np.int64) for item in found]

    def decode(self, ids: Sequence[int] | Ids) -> str:
        wanted = checked(ids, self.vocab_size).tolist()
        return str(self._inner.decode(wanted, skip_special_tokens=False))

    def spec(self) -> dict[str, Any]:
        return {
            "name": "hf",
            "id": self.identity,
            "end": self.end,
            "sha256": hashlib.sha256(self.source.encode("utf-8")).hexdigest(),
            "json": self.source,
        }


def from_spec(spec: dict[str, Any]) -> HfTokenizer:
    """The stored tokenizer, its hash checked."""
    if hashlib.sha256(spec["json"].encode("utf-8")).hexdigest() != spec["sha256"]:
        raise UserError("the stored tokenizer does not match its own hash: the file was changed")
    return HfTokenizer(spec["json"], spec["id"], spec["end"])


def compact(source: str) -> str:
    """The same JSON without its indentation: half the size."""
    return json.dumps(json.loads(source), ensure_ascii=False, separators=(",", ":"))
