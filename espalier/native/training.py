"""The kernels that training on a CPU uses."""

from espalier.native import attention, branches, build, dropout, relu2, rms, rotary

KERNELS = (attention, branches, dropout, relu2, rms, rotary)


def prepare() -> bool:
    """Build or load them all; False where one cannot be had (its part then goes through torch)."""
    return build.prepare(*KERNELS)
