"""The report of a search: its figures, and one self-contained HTML page with all of them."""

import re
from collections.abc import Mapping
from html import escape
from math import log10
from pathlib import Path
from typing import Any

from mmnas_ext.archs import SKIP, ArchSpec, SearchSpace, cost
from mmnas_ext.reports.alphas import draw_alphas
from mmnas_ext.reports.decision import decision_cells, draw_decision
from mmnas_ext.reports.facts import Facts, read_facts, read_results
from mmnas_ext.reports.log import SearchLog, argmax_path, check_records, read_log, searched_layers
from mmnas_ext.reports.markup import figure_html, note_html, table_html, write_html
from mmnas_ext.reports.measured import draw_measured, front_cells
from mmnas_ext.reports.network import draw_network
from mmnas_ext.reports.table import format_cost, format_count, format_size, name_metric, table_cells
from mmnas_ext.reports.trial_figure import Trials, draw_trials, read_trials, trials_cells
from mmnas_ext.search.decision import Decision
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.workdir import WorkDir


def write_report(
    work_dir: str | Path,
    out: str | Path | None = None,
    *,
    seed: ArchSpec | None = None,
    input_size: tuple[int, int] | None = None,
    output_stride: int | None = None,
) -> tuple[Path, ...]:
    """Draws what there is of a search, by gradients or at random, and writes ``report.html`` with all of it.

    A search that is still running, or stopped early, has no derived network yet: then the report shows the leading
    network so far, and says so. Of a run that was given its network (``--arch``) it shows that.

    Args:
        work_dir: Folder with ``search_log.jsonl`` and ``search_space.json``, or ``trials/<nn>/result.json``, or
            ``derived/arch.json`` alone; what else a run leaves is added where it is there.
        out: Folder to write to, made if missing; by default `work_dir`.
        seed: Network to draw above the found one; by default the run's own, where ``run.json`` says it.
        input_size: Height and width that MAdds are given for; by default the run's, or that of ``results.json``.
        output_stride: As in `mmnas_ext.archs.cost`; by default the run's.

    Returns:
        ``network.png``, those of ``alphas.png``, ``trials.png`` and ``front.png`` whose source there is, and last
        ``report.html``.

    Raises:
        FileNotFoundError: There is no work dir, or nothing of a search in it.
        ValueError: A file is not of its form.
    """
    files = WorkDir(Path(work_dir))
    facts = read_facts(files.root, input_size, output_stride)
    space, log = _read_search(files)
    trials = read_trials(files.root, facts.rank_by, facts.rule, facts.metric)
    leading = space.arch(argmax_path(log.records[-1], space)) if space and log else None
    arch, title = _find_network(files, leading, trials)
    front = MeasuredFront.find(files.root)
    decision = Decision.parse(files.decision) if files.decision.is_file() else None
    # what cannot be read is refused before anything is written
    results, snapshots = _tell_results(read_results(files.root)), _tell_snapshots(files, arch, facts)
    target = files.root if out is None else Path(out)
    target.mkdir(parents=True, exist_ok=True)
    written, network = write_network(arch, target / 'network.png', title, facts, seed)
    figures = [written]
    parts = [_tell_run(files, log, trials, facts), *([_tell_space(space)] if space else []), network, results]
    if files.predictions.is_file():
        parts.append(figure_html('Predictions', '', files.predictions, 'Images, ground truth and predictions'))
    if log and space:
        figures.append(draw_alphas(log, space, target / 'alphas.png'))
        note = 'softmax(alpha) of every searched layer over the iterations'
        parts += [figure_html('How alpha moved', '', figures[-1], note), table_html(_alpha_cells(log, space))]
    if trials:
        figures.append(draw_trials(trials, target / 'trials.png'))
        note = f'No file says what ranks the trials: taken is {trials.rank_by}.' if trials.guessed else ''
        parts += [figure_html('Trials', note, figures[-1], 'What each trial reached over what its network costs')]
        parts += [table_html(trials_cells(trials))]
    if decision:
        figures.append(draw_decision(decision, target / 'decision.png'))
        parts += [figure_html('What was decided', decision.why, figures[-1], 'Per layer the lead of what was chosen')]
        parts += [table_html(decision_cells(decision))] if decision.networks else []
    if front:
        figures.append(draw_measured(front, target / files.front_figure.name))
        parts.append(tell_measured(front, figures[-1], facts))
    name = f'Search in {files.root.resolve().name}'
    return (*figures, write_html(target / 'report.html', name, [*parts, snapshots]))


def write_network(
    arch: ArchSpec, file: Path, title: str, facts: Facts, seed: ArchSpec | None = None
) -> tuple[Path, str]:
    """Draws a network into a file; returns that, and a section with its costs, its figure and its text."""
    size, stride = facts.input_size, facts.output_stride
    draw_network(arch, file, seed=seed or facts.seed, input_size=size, output_stride=stride, title=title)
    price = cost(arch, size, stride)
    counts = f'{format_count(price.macs)} MAdds, {format_count(price.params)} parameters, {sum(arch.depths)} layers'
    text = arch.format('fna').replace('|', '|\n').replace('\n\n', '\n')
    section = figure_html(title, f'{facts.size_note}.', file, 'The network as a chain of stages, a box per layer')
    return file, f'{section}<p>{counts}.</p>\n<pre>{escape(text)}</pre>\n'


def tell_measured(front: MeasuredFront, figure: Path, facts: Facts) -> str:
    """A section with the measured networks of a front: their figure and their table."""
    note = f'{facts.size_note}. tools/train.py trains network K by --pick K, all of them by --adapt-all.'
    shown = figure_html('Measured networks', note, figure, 'What networks of the front reach over what they cost')
    return f'{shown}{table_html(front_cells(front))}'


def _read_search(files: WorkDir) -> tuple[SearchSpace | None, SearchLog | None]:
    """The space and the log of a search by gradients; neither where another file says what was found."""
    if not files.search_log.is_file():
        others = files.arch.is_file() or files.trials.is_dir()
        if files.search_space.is_file() and not others:
            raise FileNotFoundError(f'no search log at {files.search_log}: a search writes it once its hook has run')
        return None, None
    if not files.search_space.is_file():
        raise FileNotFoundError(f'no search space at {files.search_space}: is {files.root} the work dir of a search?')
    space, log = SearchSpace.parse(files.search_space.read_text(encoding='utf-8')), read_log(files.search_log)
    check_records(log.records, space)
    return space, log


def _find_network(files: WorkDir, leading: ArchSpec | None, trials: Trials | None) -> tuple[ArchSpec, str]:
    """The derived network, or the one that leads so far, and its heading."""
    if files.arch.is_file():
        return ArchSpec.parse(files.arch.read_text(encoding='utf-8')), 'Found network'
    if leading:
        return leading, 'Leading network so far'
    if trials:
        return trials.rows[0].arch, 'Best network so far'
    wanted = f'{files.search_log.name}, trials with a result.json, or derived/{files.arch.name}'
    raise FileNotFoundError(f'nothing of a search in {files.root}: wanted {wanted}')


def _tell_run(files: WorkDir, log: SearchLog | None, trials: Trials | None, facts: Facts) -> str:
    """The heading, and how far the run is."""
    notes = []
    if log:
        last = log.records[-1]
        counts = ((log.repeated, 'repeated by a resumed run'), (log.unreadable, 'unreadable'))
        left_out = '; '.join(f'{count} {what}' for count, what in counts if count)
        notes.append(f'{log.count} records up to iteration {last.iteration}, epoch {last.epoch}')
        notes[0] += f' ({left_out})' if left_out else ''
    if trials:
        notes.append(f'{len(trials.rows)} trials, ranked by {trials.rank_by}')
    if not log and not trials:
        notes.append('the network was given, and not searched here')
    heading = f'<h1>Search in {escape(files.root.resolve().name)}</h1>\n'
    heading += note_html('; '.join(filter(None, [*notes, facts.limits_note])))
    found = files.arch.is_file()
    return heading + ('' if found else note_html('Nothing is derived yet: below is the network that leads so far.'))


def _tell_space(space: SearchSpace) -> str:
    layers = [space.stages[i].layers[j] for i, j in searched_layers(space)]
    sizes = sorted({len(layer) for layer in layers})
    product = ' · '.join(f'{size}<sup>{sum(len(layer) == size for layer in layers)}</sup>' for size in sizes)
    exponent = int(log10(space.size))
    tokens = ', '.join(dict.fromkeys(token for layer in layers for token in layer))
    return (
        f'<h2>Space</h2>\n<p>{len(layers)} searched layers in {len(space.stages)} stages, {product} ≈ '
        f'{space.size / 10**exponent:.1f} · 10<sup>{exponent}</sup> networks.<br>Candidates: {escape(tokens)}.</p>\n'
    )


def _tell_results(results: Mapping[str, Any]) -> str:
    if not results.get('rows'):
        return ''
    size = results.get('input_size')
    note = note_html(f'MAdds at {format_size(size)}.' if size else '')
    return f'<h2>Results</h2>\n{note}{table_html(table_cells(results["rows"]))}'


def _alpha_cells(log: SearchLog, space: SearchSpace) -> list[list[str]]:
    last = log.records[-1]
    cells = [
        ['at the last record', 'value'],
        ['arch steps seen from iteration', str(log.start) if log.start is not None else 'not known'],
    ]
    for metric in last.expected:
        for kind, costs in (('expected', last.expected), ('argmax', last.argmax)):
            cells.append([f'{kind} {name_metric(metric)}', format_cost(metric, costs[metric])])
    may = sum(SKIP in space.stages[i].layers[j] for i, j in searched_layers(space))
    cells.append([f'layers where {SKIP} leads', f'{last.skips} of {may} that may'])
    if last.entropy:
        least = min(last.entropy, key=last.entropy.__getitem__)
        mean = sum(last.entropy.values()) / len(last.entropy)
        cells.append(['mean entropy (1: undecided, 0: decided)', f'{mean:.3f}'])
        cells.append(['least entropy', f'{last.entropy[least]:.3f} in layer {least}'])
    return cells


def _tell_snapshots(files: WorkDir, arch: ArchSpec, facts: Facts) -> str:
    """The network that an earlier epoch, or iteration, would have given."""
    found: dict[int, Any] = {}
    unit = 'epoch'
    for path in files.snapshots.glob('*.json'):
        match = re.fullmatch(r'(epoch|iter)_(\d+)\.json', path.name)
        if match:
            # a search counts one or the other
            unit = 'epoch' if match[1] == 'epoch' else 'iteration'
            found[int(match[2])] = ArchSpec.parse(path.read_text(encoding='utf-8'))
    if not found:
        return ''
    cells = [[unit, 'MAdds', 'parameters', 'layers', 'network']]
    for number, snapshot in sorted(found.items()):
        price = cost(snapshot, facts.input_size, facts.output_stride)
        same = ' (as found)' if snapshot == arch else ''
        layers = ' | '.join(f'{stage.channels}: {" ".join(stage.layers)}' for stage in snapshot.stages)
        counts = [format_count(price.macs), format_count(price.params), str(sum(snapshot.depths))]
        cells.append([f'{number}{same}', *counts, layers])
    return f'<h2>Snapshots</h2>\n{note_html(f"derived/snapshots; {facts.size_note}.")}{table_html(cells)}'
