"""Training on several devices: the ranks, how a model lies on them, and what they save."""
