"""Slot: how layers are wired."""
