"""Help pages, messages and job files, shared by the commands. Imports no torch."""
