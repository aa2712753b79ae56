"""Models as other programs read them: transformers directories, safetensors, GGUF, the hub."""
