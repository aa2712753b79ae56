"""The teacher that a loss names, opened and found to speak the student's language."""

from espalier import api
from espalier.data.corpus import Corpus
from espalier.errors import UserError
from espalier.nn.gpt import GPT, GPTConfig
from espalier.train.slots import LossConfig


def teacher(loss: LossConfig, student: GPTConfig, corpus: Corpus, device: str) -> GPT | None:
    """The model to learn from, on `device`; None for a loss that needs none.

    UserError where its tokenizer is not the corpus', it knows another number of tokens, or its
    window is too short: its probabilities would be of something else.
    """
    guide = loss.guide()
    if guide is None:
        return None
    place = guide[0]
    found = api.load(place, device=device)
    shape = found.config.model
    if found.tokenizer.spec() != corpus.tokenizer.spec():
        raise UserError(
            f"train.loss.teacher={place} has another tokenizer than {corpus.path}; prepare the "
            f"corpus with --tokenizer of the teacher's"
        )
    if shape.vocab_size != student.vocab_size:
        raise UserError(
            f"train.loss.teacher={place} has a vocabulary of {shape.vocab_size}, the student's is "
            f"model.vocab_size={student.vocab_size}; they must be alike"
        )
    if shape.block_size < student.block_size:
        raise UserError(
            f"train.loss.teacher={place} sees {shape.block_size} tokens at a time: "
            f"lower model.block_size={student.block_size} to that"
        )
    return found.model
