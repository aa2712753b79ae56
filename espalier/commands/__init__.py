"""One file per verb; the only place where everything meets."""
