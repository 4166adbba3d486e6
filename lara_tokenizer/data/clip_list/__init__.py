"""Lists of clips."""
