"""Commands that show a table beside its video: `lara-tok view` and `lara-tok decode`."""
