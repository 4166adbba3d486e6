"""The HTML report ("health card") of an evaluation: one page that needs no server, no script and no network.

`examples.py` chooses the pairs that are shown, `images.py` and `charts.py` draw, `sections.py`, `attention.py` and
`tables.py` collect the contents of the sections, and `page.py` renders them with `page.html.j2` and `report.css`.
"""
