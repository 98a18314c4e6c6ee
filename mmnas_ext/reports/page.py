"""One self-contained HTML page about a search: text, tables and pictures in a single file without scripts."""

import json
import re
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from math import log10
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mmnas_ext.archs import SKIP, ArchSpec, SearchSpace, cost
from mmnas_ext.reports.alphas import alphas_figure, draw_alphas
from mmnas_ext.reports.log import SearchLog, arch_start, argmax_path, read_log, searched_layers
from mmnas_ext.reports.network import draw_network, network_figure
from mmnas_ext.reports.table import format_count, format_size, table_cells

# The size of the paper's cost table; a work dir with results says its own.
DEFAULT_SIZE = (800, 1088)
PREDICTIONS_NAME = 'predictions.png'
"""File in a work dir that the page shows if it is there."""

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


def write_page(
    work_dir: str | Path,
    out: str | Path = 'report.html',
    *,
    seed: ArchSpec | None = None,
    input_size: tuple[int, int] | None = None,
    output_stride: int = 32,
) -> Path:
    """Writes the page of a search from the files in its work dir.

    A search that is still running, or stopped early, has no derived network yet: then the page shows the network of the
    most probable candidates so far, and says so.

    Args:
        work_dir: Folder with ``search_log.jsonl`` and ``search_space.json``, and where they exist
            ``derived/arch.json``, ``derived/snapshots/epoch_<n>.json`` (or ``iter_<n>.json``), ``results.json`` and
            ``predictions.png``.
        out: File to write; a relative path counts from `work_dir`.
        seed: Network to draw above the found one.
        input_size: Height and width that MAdds are given for; by default those of ``results.json``, or else 800x1088.
        output_stride: As in `mmnas_ext.archs.cost`.

    Returns:
        The file written.

    Raises:
        FileNotFoundError: The work dir, its log or its space is missing.
        ValueError: A file is not of its form.
    """
    folder = Path(work_dir)
    space, log = read_space(folder), read_log(folder)
    results = read_results(folder)
    size = input_size or results_size(results) or DEFAULT_SIZE
    arch, derived = found_network(folder, space, log)
    parts = [
        _heading(folder, space, log),
        network_html(arch, derived, seed, size, output_stride),
        _compared(results),
        _predicted(folder),
        _moved(log, space),
        _snapshots(folder, arch, size, output_stride),
    ]
    return write_html(folder / out, f'Search in {folder.resolve().name}', parts)


def write_html(path: Path, title: str, parts: Sequence[str]) -> Path:
    """Writes a page of parts, one below the other; returns its file."""
    path.write_text(
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<style>{_STYLE}</style>\n</head>\n<body>\n{"".join(parts)}</body>\n</html>\n',
        encoding='utf-8',
    )
    return path


def write_report(
    work_dir: str | Path,
    out: str | Path | None = None,
    *,
    seed: ArchSpec | None = None,
    input_size: tuple[int, int] | None = None,
    output_stride: int = 32,
) -> tuple[Path, Path, Path]:
    """Writes ``network.png``, ``alphas.png`` and ``report.html``.

    Args:
        work_dir: As in `write_page`.
        out: Folder to write to, made if missing; by default `work_dir`.
        seed: As in `write_page`.
        input_size: As in `write_page`.
        output_stride: As in `mmnas_ext.archs.cost`.

    Returns:
        The three files.

    Raises:
        FileNotFoundError: The work dir, its log or its space is missing.
        ValueError: A file is not of its form.
    """
    folder = Path(work_dir)
    space, log = read_space(folder), read_log(folder)
    size = input_size or results_size(read_results(folder)) or DEFAULT_SIZE
    arch, derived = found_network(folder, space, log)
    target = folder if out is None else Path(out)
    target.mkdir(parents=True, exist_ok=True)
    network = draw_network(
        arch,
        target / 'network.png',
        seed=seed,
        input_size=size,
        output_stride=output_stride,
        title=_name(derived),
    )
    alphas = draw_alphas(log.records, space, target / 'alphas.png')
    place = (target / 'report.html').resolve()
    return network, alphas, write_page(folder, place, seed=seed, input_size=size, output_stride=output_stride)


def read_space(work_dir: Path) -> SearchSpace:
    """The space that a search wrote.

    Raises:
        FileNotFoundError: The work dir or the file is missing.
        ValueError: The file is no search space.
    """
    if not work_dir.is_dir():
        raise FileNotFoundError(f'no work dir at {work_dir}')
    path = work_dir / 'search_space.json'
    if not path.is_file():
        raise FileNotFoundError(f'no search space at {path}: is {work_dir} the work dir of a search?')
    return SearchSpace.parse(path.read_text(encoding='utf-8'))


def found_network(work_dir: Path, space: SearchSpace, log: SearchLog) -> tuple[ArchSpec, bool]:
    """The derived network and True, or that of the most probable candidates of the last record and False."""
    path = work_dir / 'derived' / 'arch.json'
    if path.is_file():
        return ArchSpec.parse(path.read_text(encoding='utf-8')), True
    return space.arch(argmax_path(log.records[-1], space)), False


def read_results(work_dir: Path) -> dict[str, Any]:
    """Content of ``results.json``; empty where there is none.

    Raises:
        ValueError: The file is not of the form ``{"rows": [...], "input_size": [h, w]}``.
    """
    path = work_dir / 'results.json'
    if not path.is_file():
        return {}
    try:
        results = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path} is no JSON: {error}') from error
    if not isinstance(results, dict) or not isinstance(results.get('rows'), list):
        raise ValueError(f'{path} must be an object with a list "rows", got {str(results)[:60]!r}')
    results_size(results)
    return results


def results_size(results: dict[str, Any]) -> tuple[int, int] | None:
    """Height and width of ``results.json``, ``None`` if it says none.

    Raises:
        ValueError: They are no pair of positive integers.
    """
    size = results.get('input_size')
    if size is None:
        return None
    if not isinstance(size, list) or len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
        raise ValueError(f'results.json: input_size must be [height, width], two positive integers, got {size!r:.60}')
    return size[0], size[1]


def _heading(folder: Path, space: SearchSpace, log: SearchLog) -> str:
    layers = [space.stages[i].layers[j] for i, j in searched_layers(space)]
    sizes = sorted({len(layer) for layer in layers})
    product = ' · '.join(f'{size}<sup>{sum(len(layer) == size for layer in layers)}</sup>' for size in sizes)
    exponent = int(log10(space.size))
    last = log.records[-1]
    tokens = ', '.join(dict.fromkeys(token for layer in layers for token in layer))
    return (
        f'<h1>Search in {escape(folder.resolve().name)}</h1>\n'
        f'<p class="note">{len(log.records)} records up to iteration {last.iteration}, epoch {last.epoch}'
        f'{_left_out(log)}</p>\n<h2>Space</h2>\n'
        f'<p>{len(layers)} searched layers in {len(space.stages)} stages, {product} ≈ '
        f'{space.size / 10**exponent:.1f} · 10<sup>{exponent}</sup> networks.<br>Candidates: {escape(tokens)}.</p>\n'
    )


def _left_out(log: SearchLog) -> str:
    counts = ((log.repeated, 'repeated by a resumed run'), (log.unreadable, 'unreadable'))
    notes = [f'{count} {what}' for count, what in counts if count]
    return f' ({"; ".join(notes)})' if notes else ''


def network_html(
    arch: ArchSpec, derived: bool, seed: ArchSpec | None, size: tuple[int, int], output_stride: int
) -> str:
    """The found network: costs, picture, text."""
    price = cost(arch, size, output_stride)
    heading = _name(derived)
    note = '' if derived else '<p class="note">Nothing is derived yet: the leading candidate of each layer.</p>\n'
    figure = network_figure(arch, seed=seed, input_size=size, output_stride=output_stride, title=heading)
    text = arch.format('fna').replace('|', '|\n').replace('\n\n', '\n')
    return (
        f'<h2>{heading}</h2>\n{note}<p>{format_count(price.macs)} MAdds at {format_size(size)}, '
        f'{format_count(price.params)} parameters, {sum(arch.depths)} layers.</p>\n'
        f'{_picture(figure, "The network as a chain of stages, a box per layer")}<pre>{escape(text)}</pre>\n'
    )


def _name(derived: bool) -> str:
    return 'Found network' if derived else 'Leading network so far'


def _compared(results: dict[str, Any]) -> str:
    if not results.get('rows'):
        return ''
    size = results_size(results)
    note = f'<p class="note">MAdds at {format_size(size)}.</p>\n' if size else ''
    return f'<h2>Results</h2>\n{note}{table_html(table_cells(results["rows"]))}'


def _predicted(folder: Path) -> str:
    path = folder / PREDICTIONS_NAME
    if not path.is_file():
        return ''
    return f'<h2>Predictions</h2>\n{image_html(path.read_bytes(), "Pictures, ground truth and predictions")}'


def _moved(log: SearchLog, space: SearchSpace) -> str:
    last = log.records[-1]
    start = arch_start(log.records)
    cells = [
        ['at the last record', 'value'],
        ['arch steps seen from iteration', str(start) if start is not None else 'not known'],
        ['expected MAdds', format_count(last.expected_macs)],
        ['argmax MAdds', format_count(last.argmax_macs)],
        [f'layers where {SKIP} leads', f'{last.skips} of {sum(SKIP in s for s in _candidates(space))} that may'],
    ]
    if last.entropy:
        least = min(last.entropy, key=last.entropy.__getitem__)
        mean = sum(last.entropy.values()) / len(last.entropy)
        cells.append(['mean entropy (1: undecided, 0: decided)', f'{mean:.3f}'])
        cells.append(['least entropy', f'{last.entropy[least]:.3f} in layer {least}'])
    picture = _picture(alphas_figure(log.records, space), 'softmax(alpha) of every searched layer over the iterations')
    return f'<h2>How alpha moved</h2>\n{picture}{table_html(cells)}'


def _candidates(space: SearchSpace) -> list[tuple[str, ...]]:
    return [space.stages[i].layers[j] for i, j in searched_layers(space)]


def _snapshots(folder: Path, arch: ArchSpec, size: tuple[int, int], output_stride: int) -> str:
    """The network that an earlier epoch, or iteration, would have given."""
    files = {}
    unit = 'epoch'
    for path in (folder / 'derived' / 'snapshots').glob('*.json'):
        match = re.fullmatch(r'(epoch|iter)_(\d+)\.json', path.name)
        if match:
            # a search counts one or the other
            unit = 'epoch' if match[1] == 'epoch' else 'iteration'
            files[int(match[2])] = path
    if not files:
        return ''
    cells = [[unit, 'MAdds', 'parameters', 'layers', 'network']]
    for number in sorted(files):
        snapshot = ArchSpec.parse(files[number].read_text(encoding='utf-8'))
        price = cost(snapshot, size, output_stride)
        same = ' (as found)' if snapshot == arch else ''
        layers = ' | '.join(f'{stage.channels}: {" ".join(stage.layers)}' for stage in snapshot.stages)
        counts = [format_count(price.macs), format_count(price.params), str(sum(snapshot.depths))]
        cells.append([f'{number}{same}', *counts, layers])
    note = f'<p class="note">derived/snapshots, MAdds at {format_size(size)}.</p>\n'
    return f'<h2>Snapshots</h2>\n{note}{table_html(cells)}'


def table_html(cells: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    head = ''.join(f'<th>{escape(cell)}</th>' for cell in cells[0])
    body = ''.join(f'<tr>{"".join(f"<td>{escape(cell)}</td>" for cell in row)}</tr>\n' for row in cells[1:])
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}</table></div>\n'


def _picture(figure: Figure, text: str) -> str:
    stream = BytesIO()
    figure.savefig(stream, format='png')
    return image_html(stream.getvalue(), text)


def image_html(png: bytes, text: str) -> str:
    """A picture inside the page."""
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{b64encode(png).decode("ascii")}">\n'
