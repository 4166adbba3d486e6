"""What a user meets before and around a command: panels of help, messages, job files. Imports no torch."""
