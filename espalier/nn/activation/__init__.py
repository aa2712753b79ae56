"""Slot: elementwise non-linearity."""
