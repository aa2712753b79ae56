"""Weights times the size of what they multiply (Wanda, arXiv:2306.11695)."""

from espalier.compress.cut import cut
from espalier.compress.inputs import norms
from espalier.compress.masks import lay
from espalier.compress.prunable import by_layer, prunable
from espalier.compress.slots import Job, Masks, PruneConfig, Pruned
from espalier.nn.gpt import GPT, GPTConfig


class WandaConfig(PruneConfig):
    """score = |w| ||x||_2, x the input over the calibration text; ranked in each output"""

    scopes = ("row", "layer", "global")

    def prune(self, model: GPT, config: GPTConfig, job: Job) -> Pruned:
        weights = prunable(model, job.include)
        whole = job.scope == "global" and job.pattern is None
        masks: Masks = {}
        unseen: tuple[str, ...] = ()
        # layer by layer, so that each looks at what the pruned ones before it give
        for part in [weights] if whole else by_layer(model, weights):
            sizes, missed = norms(model, part, job)
            new = cut({name: w.detach().abs() * sizes[name] for name, w in part.items()}, job)
            lay(model, new)
            masks |= new
            unseen += missed
        return Pruned(model, config, masks, unseen=unseen)
