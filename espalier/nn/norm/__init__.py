"""Slot: normalisation."""
