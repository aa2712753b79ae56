"""Cached generation and sampling: token ids in, token ids out; `text` alone knows characters."""
