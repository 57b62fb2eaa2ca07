"""A page of HTML that needs nothing else: no network, no script, no file beside it.

Whatever is written into it is escaped, and a policy in its head keeps a browser from fetching
anything. Pictures are there twice, for light and for dark.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from ..storage.foreign_text import one_line, printable

__all__ = ["code", "details", "image", "page", "paragraph", "picture", "section", "table", "tiles"]

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #24292f; --line: #d5dae0;
  --shade: #f3f5f7; --accent: #0b63b5 }
@media (prefers-color-scheme: dark) { :root { --paper: #16191d; --ink: #e4e7eb; --line: #3a414a;
  --shade: #20252b; --accent: #79b8ff } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.2 }
h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid var(--line) }
nav a { margin-right: .8rem }
a { color: var(--accent) }
img { max-width: 100%; height: auto }
.wide { overflow-x: auto }
.wide img { min-width: 28rem; max-width: 100% }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: break-word; max-width: 32rem }
pre { background: var(--shade); padding: .7rem; white-space: pre-wrap; border-radius: .3rem }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(6rem, 1fr)); gap: .8rem }
.tiles figure { margin: 0; font-size: .85rem; line-height: 1.3 }
.tiles img { width: 100%; image-rendering: pixelated; border-radius: .2rem }
summary { cursor: pointer; padding: .3rem 0 }
"""

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="generator" content="supernetnas">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<nav>{links}</nav>
{sections}
</body>
</html>
"""

_LIGHT = {"figure.facecolor": "#ffffff", "axes.facecolor": "#ffffff", "text.color": "#24292f"}
_DARK = {"figure.facecolor": "#16191d", "axes.facecolor": "#16191d", "text.color": "#e4e7eb"}
_DOTS_PER_INCH = 144


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """Return a page of sections, each a heading and its HTML; empty ones are left out."""
    kept = [(heading, body) for heading, body in sections if body]
    links = "".join(
        f'<a href="#s{place}">{_text(heading)}</a> ' for place, (heading, _) in enumerate(kept)
    )
    bodies = "\n".join(
        f'<section id="s{place}"><h2>{_text(heading)}</h2>\n{body}</section>'
        for place, (heading, body) in enumerate(kept)
    )
    return _PAGE.format(title=_text(title), style=_STYLE, links=links, sections=bodies)


def section(*parts: str) -> str:
    """Join the parts of a section that there are."""
    return "\n".join(part for part in parts if part)


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{_text(text)}</p>" if text else ""


def code(text: str) -> str:
    """Return text as it is, in letters of equal width."""
    return f"<pre>{escape(printable(text))}</pre>"


def details(summary: str, body: str) -> str:
    """Return something that is folded away."""
    return f"<details><summary>{_text(summary)}</summary>{body}</details>" if body else ""


def table(rows: Iterable[Sequence[Any]], head: Sequence[str] | None = None) -> str:
    """Return a table; without a head, the first column names the rows. Empty without rows."""
    lines = []
    for row in rows:
        cells = [_cell(value) for value in row]
        first = f"<th>{cells[0]}</th>" if head is None else f"<td>{cells[0]}</td>"
        lines.append(f"<tr>{first}{''.join(f'<td>{cell}</td>' for cell in cells[1:])}</tr>")
    if not lines:
        return ""
    top = "" if head is None else f"<tr>{''.join(f'<th>{_text(name)}</th>' for name in head)}</tr>"
    return f'<div class="wide"><table>{top}{"".join(lines)}</table></div>'


def picture(draw: Callable[[], Any], what: str) -> str:
    """Return what a display draws, for light and for dark, and the names that it has shortened.

    Parameters
    ----------
    draw : callable
        Returns a display on a figure of its own; called once for each.
    what : str
        What is to be seen, for those who cannot see it.
    """
    (dark, _, _), (light, width, names) = (_drawn(draw, style) for style in (_DARK, _LIGHT))
    return (
        '<div class="wide"><picture>'
        f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" width="{width}" alt="{_text(what)}"></picture></div>'
        f"{details('Full names', table(names.items()))}"
    )


def image(pixels: np.ndarray) -> str:
    """Return the address that holds an image (height, width, 3) of uint8."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return _address(data.getvalue())


def tiles(pixels: np.ndarray, captions: Sequence[str]) -> str:
    """Return images (n, height, width, 3) of uint8 beside each other, each with its caption."""
    figures = (
        f'<figure><img src="{image(one)}" alt="{_text(caption)}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
        for one, caption in zip(pixels, captions, strict=True)
    )
    return f'<div class="tiles">{"".join(figures)}</div>' if captions else ""


def _drawn(draw: Callable[[], Any], style: dict[str, str]) -> tuple[str, int, dict[str, str]]:
    """Address of a picture, its width in the points of a page, and names that it has shortened."""
    from ..plotting._common import import_pyplot

    plt, ink, data = import_pyplot(), style["text.color"], io.BytesIO()
    lines = ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    with plt.ioff(), plt.style.context(["default", {**style, **dict.fromkeys(lines, ink)}]):
        display = draw()
        figure = display.figure_
        figure.savefig(data, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
        width = round(96 * figure.get_size_inches()[0])
        plt.close(figure)
    return _address(data.getvalue()), width, getattr(display, "names_", {})


def _address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _text(value: Any) -> str:
    return escape(one_line(str(value)))


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return _text(value)
