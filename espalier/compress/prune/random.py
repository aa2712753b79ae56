"""Any weights go: what every other method has to beat."""

import torch

from espalier.compress.cut import cut
from espalier.compress.masks import lay
from espalier.compress.prunable import prunable
from espalier.compress.slots import Job, PruneConfig, Pruned
from espalier.nn.gpt import GPT, GPTConfig


class RandomConfig(PruneConfig):
    """score = a random number, from the seed"""

    def prune(self, model: GPT, config: GPTConfig, job: Job) -> Pruned:
        chance = torch.Generator().manual_seed(job.seed)
        scores = {
            name: torch.rand(w.shape, generator=chance).to(w.device)
            for name, w in prunable(model, job.include).items()
        }
        masks = cut(scores, job)
        lay(model, masks)
        return Pruned(model, config, masks)
