"""Attention by plain operations: for training in bf16 on a CPU where no kernel of ours serves."""

import torch
from torch import Tensor

# Up to so many tokens, torch's fused attention in bf16 on a CPU is slower to differentiate than
# plain operations; with dropout it always is. benchmarks/attention_fallback.py measures both.
SHORT = 512


def serves(q: Tensor, dropout: float) -> bool:
    """Are plain operations the faster way to train on such (batch, heads, time, width) queries?"""
    slow = q.device.type == "cpu" and q.dtype is torch.bfloat16 and q.requires_grad
    return slow and (dropout > 0 or q.shape[2] <= SHORT)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, dropout: float) -> Tensor:
    """softmax(q k^T / sqrt(width) + bias) v in the dtype of q, whose heads k's divide."""
    if q.shape[1] != k.shape[1]:
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias
    weights = scores.softmax(-1).to(q.dtype)
    return (torch.dropout(weights, dropout, True) if dropout else weights) @ v
