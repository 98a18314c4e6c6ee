"""What stands in a figure."""

from itertools import combinations
from struct import unpack

from matplotlib.figure import Figure
from matplotlib.text import Text


def by_gid(figure: Figure, prefix: str) -> dict:
    """Artists whose gid starts with `prefix`, by gid."""
    return {a.get_gid(): a for a in figure.findobj(lambda a: (a.get_gid() or '').startswith(prefix))}


def boxes(figure: Figure, prefix: str) -> dict:
    """As `by_gid`, without labels."""
    return {gid: artist for gid, artist in by_gid(figure, prefix).items() if not isinstance(artist, Text)}


def texts(figure: Figure) -> list[Text]:
    """Texts that are seen; ticks beyond an axis' limits are not."""
    figure.draw_without_rendering()
    beyond = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        beyond |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in beyond]


def overlaps(shown: list[Text]) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other by more than a pixel."""
    extents = [(text.get_text(), text.get_window_extent()) for text in shown]
    found = []
    for (one, a), (other, b) in combinations(extents, 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        high = min(a.y1, b.y1) - max(a.y0, b.y0)
        if wide > 1 and high > 1:
            found.append((one, other))
    return found


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height that a PNG's header says."""
    assert data[:8] == b'\x89PNG\r\n\x1a\n'
    return unpack('>II', data[16:24])
