"""Hugging Face `datasets` whose rows are episodes."""
