"""Slot: attention's normaliser."""
