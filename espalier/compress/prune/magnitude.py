"""The smallest weights go (Han and others 2015, arXiv:1506.02626)."""

from espalier.compress.cut import cut
from espalier.compress.masks import lay
from espalier.compress.prunable import prunable
from espalier.compress.slots import Job, PruneConfig, Pruned
from espalier.nn.gpt import GPT, GPTConfig


class MagnitudeConfig(PruneConfig):
    """score = |w|"""

    def prune(self, model: GPT, config: GPTConfig, job: Job) -> Pruned:
        weights = prunable(model, job.include)
        masks = cut({name: w.detach().abs() for name, w in weights.items()}, job)
        lay(model, masks)
        return Pruned(model, config, masks)
