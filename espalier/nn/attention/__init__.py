"""Slot: what mixes positions."""
