"""Slot: what moves the residual stream after one layer."""
