"""Slot: token ids to the residual stream."""
