"""What a model costs: parameters, FLOPs, bytes. Counted from the built model, never re-derived."""
