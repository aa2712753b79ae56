"""Slot: images to vectors in the residual stream."""
