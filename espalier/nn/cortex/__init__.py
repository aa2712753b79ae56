"""What a cortical block is made of (BioGPT, L. Hamond 2026)."""
