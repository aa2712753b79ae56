"""Slot: the residual stream to logits."""
