"""Futures that codes predict, as pictures: `draw.py` is the course; `rows.py`, `predictions.py` and `picture.py` its steps."""
