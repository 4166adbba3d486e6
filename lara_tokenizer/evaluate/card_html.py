"""Markup of the health card: all text is escaped, unless it is markup already."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any


class Html(str):
    """Markup that stands as it is."""

    __slots__ = ()


def escaped(content: Any) -> Html:
    """Text as markup; markup stays.

    >>> escaped("a < b")
    'a &lt; b'
    """
    return content if isinstance(content, Html) else Html(html.escape(str(content)))


def join(parts: Iterable[Any]) -> Html:
    """One piece of markup after the other."""
    return Html("".join(map(escaped, parts)))


def tag(name: str, *children: Any, **attributes: Any) -> Html:
    """An element; `class_` is the attribute class, `aria_label` is aria-label, None leaves an attribute out.

    >>> tag("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def image(uri: str, description: str) -> Html:
    """A picture that stands in the page itself."""
    return Html(f'<img src="{uri}" alt="{html.escape(description)}">')


def section(key: str, title: str, *children: Any) -> Html:
    """A part of the page that the list of contents can point at."""
    return tag("section", tag("h2", title), *children, id=key)


def note(*children: Any) -> Html:
    """A caption: what is shown, and what to look for."""
    return tag("p", *children, class_="note")


def grid(head: Sequence[Any], rows: Iterable[Sequence[Any]], kind: str) -> Html:
    """A table in a box of its own that scrolls where the screen is narrow; the first cell of a row names it."""
    header = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    table = tag("table", tag("thead", header), tag("tbody", *body), class_=kind)
    # Focusable, so that a keyboard can scroll it.
    return tag("div", table, class_="scroll", tabindex="0")


def number(value: float | None, digits: int = 3) -> str:
    """A figure for people: a true minus, thin spaces in thousands, a dash where nothing was measured.

    >>> number(-0.25), number(None), number(12345)
    ('−0.250', '–', '12\\u202f345')
    """
    if value is None:
        return "–"
    written = f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"
    if float(written.replace(",", "")) == 0:
        written = written.lstrip("-")
    return written.replace("-", "−").replace(",", "\u202f")


def counted(count: int, thing: str) -> str:
    """A number of things.

    >>> counted(1, "pair"), counted(2, "pair")
    ('1 pair', '2 pairs')
    """
    return f"{number(count)} {thing}{'' if count == 1 else 's'}"


def interval(bounds: Sequence[float] | None, digits: int = 3) -> str:
    """A 95 % interval in brackets; nothing where there is none."""
    return "" if bounds is None else f"[{number(bounds[0], digits)}, {number(bounds[1], digits)}]"


def with_interval(value: float | None, bounds: Sequence[float] | None, digits: int = 3) -> Html:
    """The figure, and its interval in small."""
    if bounds is None:
        return escaped(number(value, digits))
    return join([number(value, digits), " ", tag("small", interval(bounds, digits))])
