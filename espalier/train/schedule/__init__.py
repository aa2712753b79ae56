"""Slot: the learning rate of a step."""
