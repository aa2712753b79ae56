"""Slot: gradients to new weights."""
