"""Learning from another model's probabilities (Hinton et al., arXiv:1503.02531)."""

from functools import partial

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from espalier.errors import ConfigError
from espalier.train.loss.cross_entropy import cross_entropy, wide
from espalier.train.slots import GuidedLoss, LossConfig, TokenLoss


class DistillationConfig(LossConfig):
    """(1 - share) * cross entropy + share * T^2 * KL(teacher at T || student at T)"""

    teacher: str | None = None
    """a run, or anything else that opens as a model; it must have the corpus' tokenizer"""
    temperature: float = Field(2.0, gt=0)
    """T"""
    share: float = Field(0.5, ge=0, le=1)
    """of what the teacher says in the loss"""

    def build(self) -> TokenLoss:
        """What is left without a teacher, such as in `check`: cross entropy."""
        return cross_entropy

    def guide(self) -> tuple[str, GuidedLoss]:
        if self.teacher is None:
            raise ConfigError("train.loss.teacher is not set: name a run to learn from")
        return self.teacher, partial(distillation, temperature=self.temperature, share=self.share)


def distillation(
    logits: Tensor, targets: Tensor, teacher: Tensor, *, temperature: float, share: float
) -> Tensor:
    """Sum over the targets that are not -1; `teacher`: its logits, (n, vocab) as the student's."""
    student = F.log_softmax(wide(logits) / temperature, -1)
    wanted = F.log_softmax(wide(teacher).to(student.dtype) / temperature, -1)
    apart = F.kl_div(student, wanted, reduction="none", log_target=True).sum(-1)
    guided = (apart * (targets >= 0)).sum() * temperature**2
    return (1 - share) * cross_entropy(logits, targets) + share * guided
