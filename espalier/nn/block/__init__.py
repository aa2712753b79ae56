"""Slot: how one layer is wired."""
