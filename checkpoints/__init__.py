"""Hugging Face, GGUF, PEFT and Orbax checkpoints to and from our arrays."""
