"""Slot: where a token stands."""
