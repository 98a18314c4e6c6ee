"""The report of a run, whatever its method: a few figures as files, and one self-contained HTML page, result first."""

import re
from html import escape
from math import log10
from pathlib import Path
from typing import Any

from mmnas_ext import __version__
from mmnas_ext.archs import SKIP, ArchSpec, SearchSpace, cost
from mmnas_ext.reports import charts
from mmnas_ext.reports.alphas import draw_alphas
from mmnas_ext.reports.beside import same_network
from mmnas_ext.reports.decision import adapted_cells, decision_cells
from mmnas_ext.reports.distill_page import Distilled
from mmnas_ext.reports.evolution import (
    describe_generations,
    draw_generations,
    generations_cells,
    read_generations,
)
from mmnas_ext.reports.facts import Facts, read_facts
from mmnas_ext.reports.glossary import glossary_html
from mmnas_ext.reports.going_on import next_commands
from mmnas_ext.reports.log import SearchLog, argmax_path, check_records, read_log, searched_layers
from mmnas_ext.reports.markup import (
    cards_html,
    chart_html,
    details_html,
    image_html,
    nav_html,
    note_html,
    pre_html,
    section_html,
    table_html,
    write_html,
)
from mmnas_ext.reports.measured import draw_measured
from mmnas_ext.reports.network import draw_network
from mmnas_ext.reports.networks import candidates_html, networks_html
from mmnas_ext.reports.result import (
    FOUND,
    GIVEN,
    LEADING,
    PICKED,
    Result,
    certainty_note,
    headline,
    limit_words,
    main_cost,
    read_result,
    result_cells,
    result_details,
    short,
    training_note,
)
from mmnas_ext.reports.samples import read_samples, samples_html
from mmnas_ext.reports.table import format_cost, format_count, metric_column, name_metric
from mmnas_ext.reports.training_log import read_training
from mmnas_ext.reports.trials import Trials, read_trials, trials_cells
from mmnas_ext.search.generations import Generations
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.workdir import WorkDir

_CHOSEN_BY = {
    'argmax': 'alpha, the most probable network within the limit', 'measured': 'losses on held-out images',
    'evolution': 'evolution on held-out images',
}  # fmt: skip
_STATES = {
    'created': 'begun', 'searching': 'search not finished', 'rating': 'rating not finished',
    'found': 'network found, config not written', 'derived': 'network found, not trained',
    'adapting': 'training of the network not finished', 'done': 'finished',
}  # fmt: skip


def write_report(
    work_dir: str | Path,
    out: str | Path | None = None,
    *,
    seed: ArchSpec | None = None,
    input_size: tuple[int, int] | None = None,
    output_stride: int | None = None,
) -> tuple[Path, ...]:
    """Draws what there is of a run, of any method, and writes ``report.html`` with all of it.

    A search that is still running, or stopped early, has no derived network yet: then the report shows the leading
    network so far, and says so. Of a run that was given its network (``--arch``) it shows that.

    Args:
        work_dir: Folder with ``search_log.jsonl`` and ``search_space.json``, or ``trials/<nn>/result.json``, or the
            files of a distillation, or ``derived/arch.json`` alone; what else a run leaves is added where it is there.
        out: Folder to write to, made if missing; by default `work_dir`, and of a distillation ``report`` in it for the
            figures.
        seed: Network to compare the found one with; by default the run's own, where ``run.json`` says it.
        input_size: Height and width that MAdds are given for; by default the run's, or that of ``results.json`` or of
            the ratings.
        output_stride: As in `mmnas_ext.archs.cost`; by default the run's.

    Returns:
        The figures whose source there is, such as ``network.png``, and last ``report.html``.

    Raises:
        FileNotFoundError: There is no work dir, or nothing to report in it.
        ValueError: A file is not of its form, or the run is a plain training.
    """
    files = WorkDir(Path(work_dir))
    facts = read_facts(files.root, input_size, output_stride)
    if facts.method == 'plain':
        raise ValueError(
            f'{work_dir} is the work dir of a plain training: a report tells of a search, and none was made here; '
            'its losses and metrics are in <timestamp>/vis_data/scalars.json'
        )
    distilled = Distilled.read(files) if facts.method == 'distillation' else None
    if distilled:
        facts = distilled.settle(facts)
    facts = facts.with_seed(seed)
    space, log = (None, None) if distilled else _read_search(files)
    trials = read_trials(files.root, facts.rank_by, facts.rule, facts.metric)
    leading = space.arch(argmax_path(log.records[-1], space)) if space and log and log.trained else None
    arch, title = _find_network(files, facts, leading, trials, distilled is not None or log is not None)
    # what cannot be read is refused before anything is written
    result = read_result(files, facts, arch, title, trials)
    snapshots = _tell_snapshots(files, arch, facts)
    samples, generations = read_samples(files.samples), read_generations(files)
    target = Path(out) if out is not None else files.report if distilled else files.root
    target.mkdir(parents=True, exist_ok=True)
    figures = _draw(files, target, out is None, facts, result, log, space)
    body: list[str] = [
        _tell_result(result, facts),
        section_html('Networks', note_html(f'{facts.size_note}.'), networks_html(result, facts)),
        _tell_decision(result),
        section_html('Predictions', samples_html(samples, files.samples) or _tell_predictions(files)),
    ]
    if trials:
        body.append(_tell_trials(trials))
    if generations:
        figures.append(draw_generations(generations, target / files.evolution_figure.name))
        body.append(_tell_generations(generations))
    if log and space:
        body.append(_tell_alphas(log, space))
    if distilled:
        drawn, sections = distilled.sections(target)
        figures, body = [*drawn, *figures], [*body, *sections]
    body += [_tell_losses(files, result, distilled is None), snapshots, _tell_run(files, facts, space)]
    left_out = () if distilled else ('rating',)
    left_out = left_out if log else (*left_out, 'arch step', 'alpha', 'entropy')
    body.append(section_html('Words', glossary_html(left_out)))
    what = 'Given network' if title == GIVEN else 'Distillation' if distilled else 'Search'
    name = f'{what} in {files.root.resolve().name}'
    progress, lead = _tell_progress(files, facts, result, log, trials, distilled, generations), headline(result, facts)
    top = f'<h1>{escape(name)}</h1>\n{note_html(progress)}'
    top += f'<p class="lead">{escape(lead)}</p>\n' if lead else ''
    page = (files.root if out is None else target) / 'report.html'
    return (*figures, write_html(page, name, [top, _cards(result, facts), nav_html(body), *body]))


def _draw(
    files: WorkDir, target: Path, at_home: bool, facts: Facts, result: Result, log: SearchLog | None,
    space: SearchSpace | None,
) -> list[Path]:  # fmt: skip
    """The figures that are files of their own, for a README and for TensorBoard."""
    figures = []
    found = result.find('found')
    if found is not None and found.arch is not None:
        size, stride = facts.input_size, facts.output_stride
        title = 'Leading network so far' if found.title == LEADING else 'Found network'
        options: dict[str, Any] = dict(seed=facts.seed, input_size=size, output_stride=stride, title=title)
        figures.append(draw_network(found.arch, target / 'network.png', **options))
    if log and space and log.trained:
        figures.append(draw_alphas(log, space, target / 'alphas.png'))
    if result.front:
        # of the work dir itself, since all methods leave it there
        home = files.front_figure if at_home else target / 'measured.png'
        figures.append(draw_measured(result.front, home))
    return figures


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


def _find_network(
    files: WorkDir, facts: Facts, leading: ArchSpec | None, trials: Trials | None, searched: bool
) -> tuple[ArchSpec | None, str]:
    """The derived network, or the one that leads so far, and its title; of a search there may be none yet."""
    given = facts.given or not (facts.chosen or trials or searched)
    if files.arch.is_file():
        arch = ArchSpec.parse(files.arch.read_text(encoding='utf-8'))
        front = MeasuredFront.find(files.root) if given else None
        picked = any(same_network(each.arch, arch) for each in front.points) if front else False
        return arch, PICKED if picked else GIVEN if given else FOUND
    if leading:
        return leading, LEADING
    if trials and trials.successes:
        return trials.successes[0].arch, LEADING
    if trials or searched:
        return None, ''
    wanted = f'{files.search_log.name}, trials with a result.json, or derived/{files.arch.name}'
    raise FileNotFoundError(f'nothing of a search in {files.root}: wanted {wanted}')


def _tell_progress(
    files: WorkDir, facts: Facts, result: Result, log: SearchLog | None, trials: Trials | None,
    distilled: Distilled | None, generations: Generations | None,
) -> str:  # fmt: skip
    """How far the run is, in one line."""
    found = result.find('found')
    notes = [_STATES[facts.state]] if facts.state in _STATES else []
    if found is not None and found.title == GIVEN:
        searched = log or trials or distilled
        notes.append(f'the network was given, and not {"chosen by the search" if searched else "searched"} here')
    if found is not None and found.title == PICKED:
        notes.append(f'network K = {found.number} of its front was picked')
    if log:
        last = log.records[-1]
        # a record's epoch is MMEngine's, counted from 0
        notes.append(f'searched up to {_position(facts, "search", last.epoch + 1, last.iteration)}')
        counts = ((log.repeated, 'repeated by a resumed run'), (log.unreadable, 'unreadable'))
        left_out = '; '.join(f'{count} {what}' for count, what in counts if count)
        records = f'{log.count} {"record" if log.count == 1 else "records"}'
        notes.append(f'{records} ({left_out})' if left_out else records)
    if trials:
        count = len(trials.rows)
        ranked = f'ranked by {trials.rank_by}' if trials.successes else 'all failed'
        notes.append(f'{count} {"trial" if count == 1 else "trials"}, {ranked}')
    notes += [describe_generations(generations)] if generations else []
    notes += distilled.notes() if distilled else []
    if found is not None and found.log.iteration:
        notes.append(f'trained up to {_position(facts, "adapt", found.log.epoch, found.log.iteration)}')
    if not files.arch.is_file():
        notes.append('nothing is derived yet: below is what leads so far' if found else 'nothing is derived yet')
    return '; '.join(notes)


def _position(facts: Facts, part: str, epoch: int | None, iteration: int) -> str:
    """Where a part is: its epoch, counted from 1, or its iteration, of how many."""
    length = facts.lengths.get(part)
    if length is not None and length.unit == 'iteration':
        return f'iteration {iteration} of {length.total}'
    if epoch is None:
        return f'iteration {iteration}'
    return f'epoch {epoch}{f" of {length.total}" if length else ""}, iteration {iteration}'


def _cards(result: Result, facts: Facts) -> str:
    """The figures that count, at a glance."""
    found, seed, metric = result.find('found'), result.find('seed'), result.metric
    cards = []
    if found is not None:
        shown = list(dict.fromkeys([main_cost(found, facts), 'params']))
        for name in shown:
            beside = f'seed {format_cost(name, seed.costs[name])}' if seed and name in seed.costs else ''
            where = f' at {facts.size_note.removeprefix("MAdds at ")}' if name == 'macs' else ''
            cards.append((name_metric(name) + where, format_cost(name, found.costs[name]), beside))
        if metric is not None and metric in found.trained:
            pair = metric_column([found.trained[metric], seed.trained.get(metric) if seed else None])
            cards.append((f'{short(metric)}, trained', pair[0], f'seed {pair[1]}' if pair[1] != '–' else ''))
        elif result.searched is not None and result.searched[0] in found.measured:
            name, where = result.searched
            value = metric_column([found.measured[name]])[0]
            cards.append((f'{short(name)}, {where}', value, training_note(found, facts)))
        elif found.log.iteration:
            cards.append(('training', 'no metric', training_note(found, facts)))
    if limit_words(facts, result.decision):
        cards.append(('limit', limit_words(facts, result.decision), ''))
    if result.decision:
        verdict, _, rest = certainty_note(result.decision).partition(': ')
        cards.append(('how sure', verdict, rest))
    if result.front:
        costs = [each.costs[result.front.metric] for each in result.front.points]
        ends = ' to '.join(format_cost(result.front.metric, cost) for cost in (min(costs), max(costs)))
        cards.append(('front', f'{len(costs)} networks', f'{ends} {name_metric(result.front.metric)}'))
    return cards_html(cards)


def _tell_result(result: Result, facts: Facts) -> str:
    if not result.networks:
        return ''
    marked = [n for n, row in enumerate(result.networks) if row.kind == 'found']
    table = table_html(result_cells(result, facts), marked, more=result_details(result, facts))
    chart = ''
    if result.front:
        note = 'What networks of the front reached in the search over what they cost; point at one for its name, costs '
        note += 'and metric. mmnas train … --pick K trains network K, --adapt-all several.'
        chart = note_html(note) + chart_html(charts.front_chart(result.front, result), note)
    return section_html('Result', table, chart)


def _tell_decision(result: Result) -> str:
    decision = result.decision
    if decision is None or not decision.layers:
        return ''
    note = f'Chosen by {_CHOSEN_BY[decision.type]}; {certainty_note(decision)}.'
    if decision.beats is not None:
        seed, other = result.find('seed'), decision.rival
        whose = 'seed' if seed and seed.arch and other and same_network(other, seed.arch) else 'reference'
        said = decision.says_better(f'the {whose}')
        note += f' {said[0].upper()}{said[1:]}.'
    text = 'Per layer how certain the chosen candidate is better than the runner-up; dashed: 95%.'
    chart = chart_html(charts.decision_chart(decision), text)
    compared = table_html(decision_cells(decision), texts=(0,)) if decision.networks else ''
    adapted = '' if decision.adapted is None else table_html(adapted_cells(decision.adapted), texts=(0,))
    return section_html(
        'How sure', note_html(note), note_html(decision.why), chart, note_html(text),
        details_html('Networks that were compared as wholes', compared),
        details_html('Networks that were adapted briefly', adapted),
    )  # fmt: skip


def _tell_predictions(files: WorkDir) -> str:
    if not files.predictions.is_file():
        return ''
    return image_html(files.predictions, 'Images, ground truth and predictions', 900)


def _tell_trials(trials: Trials) -> str:
    note = f'No file says what ranks the trials: taken is {trials.rank_by}.' if trials.guessed else ''
    text = 'What each trial reached over what its network costs'
    chart = chart_html(charts.trials_chart(trials), text) if trials.successes else ''
    return section_html('Trials', note_html(note), chart, table_html(trials_cells(trials)))


def _tell_generations(generations: Generations) -> str:
    note = (
        f'Networks by their {generations.rank_by} on held-out images, with the weights of the super-network; '
        f'a {"higher" if generations.rule == "greater" else "lower"} one is better. None was measured twice.'
    )
    lines = [('best so far', generations.leads), ('mean', generations.means)]
    rows = [(name, [(n, v) for n, v in enumerate(values, 1) if v is not None]) for name, values in lines]
    chart = chart_html(charts.losses_chart(rows, 'generation'), f'{generations.rank_by} over the generations')
    return section_html('Generations', note_html(note), chart, table_html(generations_cells(generations)))


def _tell_alphas(log: SearchLog, space: SearchSpace) -> str:
    if not log.trained:
        note = (
            'alpha was not trained: in all records softmax(alpha) is what it was at the start, so no candidate leads.'
        )
        return section_html('How alpha moved', note_html(note))
    start = f'; arch steps seen from iteration {log.start}' if log.start is not None else ''
    note = f'softmax(alpha) of every searched layer over the iterations{start}.'
    grid = ''.join(
        f'<div><h3>{name}</h3>{chart_html(figure, f"{name}: {note}")}</div>\n'
        for name, figure in charts.alpha_charts(log, space)
    )
    body = f'{candidates_html(space)}<div class="grid">\n{grid}</div>\n'
    return section_html('How alpha moved', note_html(note), body, table_html(_alpha_cells(log, space)))


def _tell_losses(files: WorkDir, result: Result, alone: bool) -> str:
    """Losses of the search where they are not shown elsewhere, of the trainings that follow, and what these reached."""
    searched = read_training(files.root).losses if alone else {}
    names = {'loss': 'weight steps', 'arch_loss': 'arch steps'} if 'arch_loss' in searched else {'loss': 'loss'}
    parts = []
    if searched:
        lines = [(names.get(name, name), rows) for name, rows in searched.items()]
        parts.append(f'<h3>Search</h3>{chart_html(charts.losses_chart(lines), "Losses of the search")}')
    trained = [each for each in result.networks if each.log.losses]
    if trained:
        lines = [(each.title, each.log.losses['loss']) for each in trained if 'loss' in each.log.losses]
        chart = charts.losses_chart(lines)
        parts.append(f'<h3>Training of the networks</h3>{chart_html(chart, "Losses of the trainings")}')
    # one validation is no line, and the table has it
    validated = [each for each in result.networks if len(each.log.metrics.get(result.metric or '', ())) > 1]
    if validated and result.metric:
        chart = charts.metric_chart(result.metric, validated)
        text = f'{short(result.metric)} over the training'
        parts.append(f'<h3>{escape(text)}</h3>{chart_html(chart, text)}')
    return section_html('Losses' if alone else 'Training', *parts)


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


def _tell_snapshots(files: WorkDir, arch: ArchSpec | None, facts: Facts) -> str:
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
    note = f'What alpha alone would have given earlier, in derived/snapshots; {facts.size_note}.'
    table = table_html(cells, texts=(4,))
    return section_html('Snapshots', note_html(note), details_html(f'{len(found)} snapshots', table))


def _tell_run(files: WorkDir, facts: Facts, space: SearchSpace | None) -> str:
    """The space, the commands and the versions: what it takes to do it again."""
    parts = [_tell_space(space)] if space else []
    if facts.commands:
        parts.append(f'<h3>Started with</h3>{pre_html(chr(10).join(facts.commands))}')
    parts.append(f'<h3>To go on</h3>{pre_html(chr(10).join(next_commands(files, facts)))}')
    versions = ', '.join(f'{name} {version}' for name, version in facts.versions.items())
    note = f'{f"Run with {versions}. " if versions else ""}Drawn by mmnas_ext {__version__}.'
    return section_html('Commands and versions', *parts, note_html(note))


def _tell_space(space: SearchSpace) -> str:
    layers = [space.stages[i].layers[j] for i, j in searched_layers(space)]
    sizes = sorted({len(layer) for layer in layers})
    product = ' · '.join(f'{size}<sup>{sum(len(layer) == size for layer in layers)}</sup>' for size in sizes)
    exponent = int(log10(space.size))
    tokens = ', '.join(dict.fromkeys(token for layer in layers for token in layer))
    return (
        f'<h3>Space</h3>\n<p>{len(layers)} searched layers in {len(space.stages)} stages, {product} ≈ '
        f'{space.size / 10**exponent:.1f} · 10<sup>{exponent}</sup> networks.<br>Candidates: {escape(tokens)}.</p>\n'
    )
