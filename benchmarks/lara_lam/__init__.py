"""The model card of lara-lam: what its figures are, what they say, and the pages that show them."""
