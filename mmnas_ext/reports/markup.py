"""What a self-contained HTML page is made of: text, tables and figures in a single file without scripts."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path

from mmnas_ext.workdir import write_text

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1F2430; background: #FFFFFF; max-width: 1160px;
  margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid #C9CED8; }
p.note { color: #5B6373; }
img { width: 100%; height: auto; display: block; margin: 1rem 0; }
pre { background: #F1F3F6; padding: .8rem 1rem; border-radius: 6px; overflow-x: auto; font-size: .85rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .75rem 0; }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid #E4E7EC; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; }
"""


def write_html(path: Path, title: str, parts: Sequence[str]) -> Path:
    """Writes a page of parts, one below the other, whole or not at all; returns its file."""
    head = f'<meta charset="utf-8">\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>'
    write_text(
        path, f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{"".join(parts)}</body>\n</html>\n'
    )
    return path


def note_html(text: str) -> str:
    """A remark in grey; nothing where there is nothing to say."""
    return f'<p class="note">{escape(text)}</p>\n' if text else ''


def table_html(cells: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    head = ''.join(f'<th>{escape(cell)}</th>' for cell in cells[0])
    body = ''.join(f'<tr>{"".join(f"<td>{escape(cell)}</td>" for cell in row)}</tr>\n' for row in cells[1:])
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}</table></div>\n'


def figure_html(heading: str, note: str, file: Path, text: str) -> str:
    """A section that holds a figure: its heading, a remark, the file, and what it shows in words."""
    data = b64encode(file.read_bytes()).decode('ascii')
    image = f'<img alt="{escape(text)}" src="data:image/png;base64,{data}">\n'
    return f'<h2>{escape(heading)}</h2>\n{note_html(note)}{image}'
