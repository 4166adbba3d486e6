"""lara_tok: the command line `lara-tok`. Nothing imports this package."""
