"""Export to WebDataset: shards of samples, in plain tars."""
