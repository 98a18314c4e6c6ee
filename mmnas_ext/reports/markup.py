"""What a self-contained HTML page is made of: text, tables, figures and charts in a single file."""

import re
from base64 import b64encode
from collections.abc import Collection, Sequence
from html import escape
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mmnas_ext.reports.style import STYLE, script
from mmnas_ext.workdir import write_text

_ICON = '<link rel="icon" href="data:,">'  # a browser asks a server for one otherwise


def write_html(path: Path, title: str, parts: Sequence[str]) -> Path:
    """Writes a page of parts, one below the other, whole or not at all; returns its file.

    Plotly is in it where a part has a chart; nothing is fetched from anywhere.
    """
    body = ''.join(parts)
    head = f'<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n{_ICON}\n'
    head += f'<title>{escape(title)}</title>\n<style>{STYLE}</style>'
    scripts = ''
    if '<div class="chart"' in body:
        scripts = f'<script>{get_plotlyjs()}</script>\n<script>{script()}</script>\n'
        body += '<noscript><p class="note">Charts need JavaScript; the tables hold their figures.</p></noscript>\n'
    write_text(
        path, f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}{scripts}</body>\n</html>\n'
    )
    return path


def section_html(heading: str, *parts: str) -> str:
    """A section with a heading that `nav_html` links to; nothing where it would hold nothing."""
    body = ''.join(parts)
    return f'<section id="{_anchor(heading)}"><h2>{escape(heading)}</h2>\n{body}</section>\n' if body else ''


def nav_html(sections: Sequence[str]) -> str:
    """Links to the sections of a page."""
    headings = re.findall(r'<section id="([^"]+)"><h2>(.*?)</h2>', ''.join(sections))
    return f'<nav>{"".join(f"<a href=#{anchor}>{heading}</a>" for anchor, heading in headings)}</nav>\n'


def note_html(text: str) -> str:
    """A remark in grey; nothing where there is nothing to say."""
    return f'<p class="note">{escape(text)}</p>\n' if text else ''


def table_html(
    cells: Sequence[Sequence[str]],
    marked: Collection[int] = (),
    texts: Collection[int] = (),
    more: Collection[int] = (),
) -> str:
    """A table whose first row is its head.

    Args:
        cells: Head and rows.
        marked: Rows to set in bold, counted from 0 without the head.
        texts: Columns that hold text, not figures, which may run over several lines.
        more: Columns that are left out where there is no room.
    """
    kinds = [' class="text"' if i in texts else ' class="more"' if i in more else '' for i in range(len(cells[0]))]
    head = ''.join(f'<th{kind}>{escape(cell)}</th>' for kind, cell in zip(kinds, cells[0], strict=True))
    body = []
    for number, row in enumerate(cells[1:]):
        columns = (f'<td{kind}>{escape(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))
        body.append(f'<tr{" class=found" if number in marked else ""}>{"".join(columns)}</tr>\n')
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{"".join(body)}</table></div>\n'


def cards_html(cards: Sequence[tuple[str, str, str]]) -> str:
    """Figures to be seen at once: what each is, its value, and a remark."""
    inner = ''.join(
        f'<div><dt>{escape(name)}</dt><dd>{escape(value)}'
        + (f'<small>{escape(remark)}</small>' if remark else '')
        + '</dd></div>\n'
        for name, value, remark in cards
    )
    return f'<dl class="cards">\n{inner}</dl>\n' if cards else ''


def chart_html(figure: go.Figure, text: str) -> str:
    """A chart, and what it shows in words."""
    height = int(figure.layout.height)
    data = figure.to_json().replace('<', '\\u003c')
    return (
        f'<div class="chart" role="img" aria-label="{escape(text)}"><div style="min-height:{height}px"></div>\n'
        f'<script type="application/json">{data}</script></div>\n'
    )


def image_html(file: Path, text: str, least: int = 0) -> str:
    """An image, and what it shows in words; narrower than `least` pixels it is scrolled, not shrunk."""
    style = f' style="min-width:{least}px"' if least else ''
    return f'<div class="wide"><img alt="{escape(text)}" src="{data_uri(file)}"{style}></div>\n'


def data_uri(file: Path) -> str:
    """The content of an image file as an address that holds it."""
    kind = 'jpeg' if file.suffix.lower() in ('.jpg', '.jpeg') else 'png'
    return f'data:image/{kind};base64,{b64encode(file.read_bytes()).decode("ascii")}'


def pre_html(text: str) -> str:
    """Text that is to be copied."""
    return f'<pre>{escape(text)}</pre>\n'


def details_html(summary: str, body: str) -> str:
    """What is folded away until it is wanted."""
    return f'<details><summary>{escape(summary)}</summary>\n{body}</details>\n' if body else ''


def _anchor(heading: str) -> str:
    return re.sub('[^a-z0-9]+', '-', heading.lower()).strip('-')
