"""A model in, a smaller one out: weights set to zero, or units taken out."""
