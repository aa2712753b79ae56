"""Slot: what works on each position alone."""
