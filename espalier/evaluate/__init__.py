"""What a model is worth: loss over fixed text, and tasks."""
