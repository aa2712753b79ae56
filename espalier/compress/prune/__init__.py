"""Slot: which weights of a model go."""
