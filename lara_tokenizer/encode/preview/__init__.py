"""Futures that codes predict, drawn: `draw.py` is the course, `rows.py`, `predictions.py`, `picture.py` its steps."""
