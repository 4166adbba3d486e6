"""Shared by `lara-tok train` and `lara-tok refine`: their options, the display of a run, and its closing lines."""
