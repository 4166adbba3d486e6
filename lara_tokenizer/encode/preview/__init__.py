"""Futures that codes predict, as pictures: `draw.py` is the course, `predictions.py` decodes, `picture.py` draws."""
