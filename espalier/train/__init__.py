"""From batches to trained weights: the step, its parts, and what a checkpoint holds."""
