"""Text that a model writes while it is being trained."""

from espalier.data.tokenizer.base import Tokenizer
from espalier.engine.generate import Options
from espalier.engine.sampling import Sampling
from espalier.engine.text import Session
from espalier.nn.gpt import GPT
from espalier.train import checkpoint
from espalier.train.settings import SampleConfig


def write(
    model: GPT, tokenizer: Tokenizer, block_size: int, config: SampleConfig, seed: int
) -> list[str]:
    """One text a prompt, which it begins with; leaves the random generators as they are."""
    sampling = Sampling(temperature=config.temperature, top_k=config.top_k, seed=seed)
    options = Options(max_new_tokens=config.max_new_tokens, sampling=sampling)
    kept = checkpoint.randomness()
    try:
        found = Session(model, tokenizer, block_size).complete(config.prompts, options)
    finally:
        checkpoint.restore(kept)
    return [prompt + one.text for prompt, one in zip(config.prompts, found, strict=True)]
