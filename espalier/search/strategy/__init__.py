"""How a search goes on: one file for each strategy."""
