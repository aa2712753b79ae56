"""Searches: strategies propose experiments and learn from their results; none of them trains."""
