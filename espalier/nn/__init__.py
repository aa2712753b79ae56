"""Parts of a language model, in pure torch. Knows no file, flag or optimizer."""
