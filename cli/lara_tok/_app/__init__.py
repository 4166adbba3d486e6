"""Everything that a user meets around a command: panels of help, messages, job files. Imports no torch."""
