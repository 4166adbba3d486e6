"""WebDataset tars whose samples are episodes."""
