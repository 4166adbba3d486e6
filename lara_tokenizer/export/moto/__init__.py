"""Export to Moto-GPT: an LMDB with the codes, and videos."""
