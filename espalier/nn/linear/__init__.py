"""Slot: learned map of the last dimension."""
