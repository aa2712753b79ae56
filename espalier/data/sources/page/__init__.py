"""Where samples with images come from; see `espalier.data.sources.pictured`."""
