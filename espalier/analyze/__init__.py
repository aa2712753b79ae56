"""What a trained model does inside: neurons, activations, weights, and tables of many runs."""
