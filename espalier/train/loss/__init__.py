"""Slot: logits and targets to a loss."""
