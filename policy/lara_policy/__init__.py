"""lara_policy: simulation and policies that learn with the tokenizer (arXiv 2606.07100)."""
