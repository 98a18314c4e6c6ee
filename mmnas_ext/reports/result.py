"""What a run came to, from its files: the networks that it compares, what each costs and reached, how sure that is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmnas_ext.archs import METRICS, ArchSpec, Limit, cost
from mmnas_ext.reports.beside import front_folder, read_arch, reference, same_network, same_recipe, seed_folder
from mmnas_ext.reports.facts import Facts, read_results
from mmnas_ext.reports.table import format_cost, format_limit, format_size, metric_column, name_metric, table_cells
from mmnas_ext.reports.training_log import TrainingLog, main_metric, read_training
from mmnas_ext.reports.trials import Trials
from mmnas_ext.search.decision import SURE, Decision, whole_percent
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.workdir import WorkDir

SELECTED = 'selected'
"""Folder of what was chosen from another run's search."""
FOUND, GIVEN, PICKED, LEADING = 'found', 'given', 'picked', 'leading so far'
"""Titles of the network that a run is about: picked is one of the front, and leading where the search has not ended."""
CLEAR = 0.9
"""Mean certainty above which a decision is called clear; one without a decided layer is called undecided."""

_COLUMNS = 3  # metrics that the table of results shows
_DASH = '–'


@dataclass(frozen=True)
class Network:
    """A network of the result.

    Args:
        kind: ``'seed'``, ``'found'``, ``'front'`` or ``'other'``.
        title: What it is called.
        costs: By metric of `METRICS`, in its own figures, for the run's input size.
        arch: The network; ``None`` where only its costs are known.
        trained: Metrics of the last validation of its training, by name; empty where it was not trained.
        measured: Metrics that it had in the search: in the super-network, or in a trial of its own.
        log: Its training.
        adapted: Work dir of its training, if there is one.
        number: Its number on the front, if it has one.
    """

    kind: str
    title: str
    costs: Mapping[str, float]
    arch: ArchSpec | None = None
    trained: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)
    log: TrainingLog = field(default_factory=TrainingLog)
    adapted: Path | None = None
    number: int | None = None


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Args:
        networks: The seed, what was found, and the other networks of the front, as far as there are any.
        metric: The metric that trained networks are compared by, if any was trained.
        decision: How the network was chosen, if a file says.
        front: The measured front, if there is one.
        tried: The metric that trials were ranked by, if a network had one.
    """

    networks: tuple[Network, ...]
    metric: str | None = None
    decision: Decision | None = None
    front: MeasuredFront | None = None
    tried: str | None = None

    @property
    def searched(self) -> tuple[str, str] | None:
        """The metric that networks had in the search, and where they had it; ``None`` where there is none."""
        if self.front is not None:
            return self.front.rank_by, 'in the search'
        return None if self.tried is None else (self.tried, 'in its trial')

    def find(self, kind: str) -> Network | None:
        """The first network of a kind."""
        return next((network for network in self.networks if network.kind == kind), None)


def read_result(
    files: WorkDir, facts: Facts, arch: ArchSpec | None, title: str = FOUND, trials: Trials | None = None
) -> Result:
    """Collects what the files of a work dir say of the networks that a run compares.

    Args:
        files: The run's.
        facts: What it was.
        arch: The network that it found, was given, or that leads so far.
        title: What that is called.
        trials: Those of a random search.

    Raises:
        ValueError: A file is not of its form.
    """
    front, decision = MeasuredFront.find(files.root), find_decision(files, arch)
    folder = seed_folder(files, facts)
    seed = facts.seed or (None if folder is None else read_arch(folder))
    networks = []
    measured = list(front.networks) if front else []
    if seed is not None:
        known = _trained('seed', 'seed', seed, facts, folder)
        networks.append(_join(known, next((each for each in measured if each.origin == 'seed'), None)))
    if arch is not None:
        networks.append(_find(arch, title, files, facts, decision, front))
    recipe = reference(files)
    for number, each in front.numbered if front else ():
        if number is not None and not (arch is not None and same_network(each.arch, arch)):
            folder = front_folder(files, number, each)
            other = '' if folder is None or same_recipe(recipe, folder) else ', another recipe'
            row = _trained('front', f'front, K = {number}{other}', each.arch, facts, folder)
            networks.append(replace(_join(row, each), number=number))
    networks = list(_add_rows([_try(network, trials) for network in networks], files, facts))
    names = dict.fromkeys(name for network in networks for name in network.trained)
    # what the search ranks by is what its networks are compared by
    ranked = [each for each in (front.rank_by if front else None, facts.rank_by) if each in names]
    tried = trials.rank_by if trials and any(trials.rank_by in each.measured for each in networks) else None
    return Result(tuple(networks), (*ranked, main_metric(names))[0], decision, front, tried)


def _find(
    arch: ArchSpec, title: str, files: WorkDir, facts: Facts, decision: Decision | None, front: MeasuredFront | None
) -> Network:
    """The network that a run is about, as the run trained it, or else as one of the front."""
    found = _trained('found', title, arch, facts, files.root)
    if decision is not None and same_network(decision.arch, arch):
        found = replace(found, costs={**decision.costs, **found.costs})
    for number, each in front.numbered if front else ():
        if number is not None and same_network(each.arch, arch):
            own = _trained('found', title, arch, facts, front_folder(files, number, each))
            # one that is being trained here has no metric before its first validation
            if not found.trained and (own.trained or not found.log.iteration):
                found = replace(found, trained=own.trained, log=own.log, adapted=own.adapted)
            return replace(_join(found, each), number=number)
    return found


def find_decision(files: WorkDir, arch: ArchSpec | None) -> Decision | None:
    """How a network was chosen; of one that was chosen from another run's search, what that said."""
    chosen = files.root / SELECTED / files.decision.name
    for file in (files.decision, chosen):
        if file.is_file():
            decision = Decision.parse(file)
            if file == files.decision or arch is None or same_network(decision.arch, arch):
                return decision
    return None


def result_cells(result: Result, facts: Facts) -> list[list[str]]:
    """Head and rows of the table of results: what each network costs, and what it reached."""
    rows = result.networks
    limited = facts.metric if facts.metric in METRICS else None
    costs = list(dict.fromkeys(['macs', 'params', *([limited] if limited else [])]))
    columns = [['network', *(row.title for row in rows)]]
    for name in costs:
        figures = [row.costs.get(name) for row in rows]
        head = f'{name_metric(name)} at {format_size(facts.input_size)}' if name == 'macs' else name_metric(name)
        columns.append([head, *(_DASH if each is None else format_cost(name, each) for each in figures)])
    for name in trained_metrics(result):
        columns.append([f'{short(name)}, trained', *metric_column([row.trained.get(name) for row in rows])])
    if result.searched is not None:
        name, where = result.searched
        columns.append([f'{short(name)}, {where}', *metric_column([row.measured.get(name) for row in rows])])
    return [list(row) for row in zip(*columns, strict=True)]


def result_details(result: Result, facts: Facts) -> list[int]:
    """Columns of that table that a narrow page can do without."""
    head = result_cells(result, facts)[0]
    spare = [f'{short(name)}, trained' for name in trained_metrics(result)[1:]]
    spare += [name_metric('params')] if result.front is not None and facts.metric != 'params' else []
    return [head.index(name) for name in spare]


def trained_metrics(result: Result) -> list[str]:
    """The main metric of the trainings, and a few more of those that all of them gave."""
    names = dict.fromkeys(name for row in result.networks for name in row.trained)
    # MMDetection gives -1 for sizes of objects that do not occur
    known = [name for name in names if all(row.trained.get(name, 0) >= 0 for row in result.networks)]
    return list(dict.fromkeys([*([result.metric] if result.metric else []), *known]))[:_COLUMNS]


def headline(result: Result, facts: Facts) -> str:
    """One sentence: what the network costs and reached, beside the seed."""
    found, seed = result.find('found'), result.find('seed')
    if found is None:
        return ''
    name = main_cost(found, facts)
    size = f' at {format_size(facts.input_size)}' if name == 'macs' else ''
    words = f'The {_noun(found)} has {format_cost(name, found.costs[name])} {_unit(name)}{size}'
    if name in METRICS and METRICS[name].measured:
        words = f'The {_noun(found)} takes {format_cost(name, found.costs[name])}'
    if seed is not None and seed.costs.get(name):
        words += f', {_compare(found.costs[name] / seed.costs[name])}'
    metric = result.metric
    if metric is not None and metric in found.trained:
        pair = [found.trained[metric], *([seed.trained[metric]] if seed and metric in seed.trained else [])]
        shown = metric_column(pair)
        words += f'; trained, it reached {short(metric)} {shown[0]}'
        words += f', the seed with the same recipe {shown[1]}' if len(shown) > 1 else ''
    elif result.tried is not None and result.tried in found.measured:
        words += f'; in its trial it reached {short(result.tried)} {metric_column([found.measured[result.tried]])[0]}'
    most = facts.limits.get(name, (None, None))[1]
    if found.title == LEADING and most is not None and found.costs[name] > most:
        words += f'; that is above the limit of {format_cost(name, most)}, which the choice at the end keeps to'
    return f'{words}.'


def main_cost(network: Network, facts: Facts) -> str:
    """The metric that the search limits, where the network's cost by it is known, or else multiply-adds."""
    return facts.metric if facts.metric is not None and facts.metric in network.costs else 'macs'


def training_note(network: Network, facts: Facts) -> str:
    """What there is of the training of a network that has no metric of one."""
    if not network.log.iteration:
        return 'not trained yet'
    return 'in training, not validated yet' if facts.state == 'adapting' else 'its training was not validated'


def certainty_note(decision: Decision) -> str:
    """How sure a decision is, in a sentence."""
    mean, count = decision.certainty, len(decision.layers)
    verdict = 'partly decided' if decision.decided else 'undecided'
    verdict = 'clear' if decision.decided and mean >= CLEAR else verdict
    layers = f'{decision.decided} of {count} {"layer" if count == 1 else "layers"}'
    return f'{verdict}: {layers} at least {SURE:.0%} certain, {whole_percent(mean)} on average (50% is a coin)'


def limit_words(facts: Facts, decision: Decision | None = None) -> str:
    """The limits of the choice, or else of the search, in words; empty where there are none."""
    if decision is not None and any(decision.limit):
        of = '' if decision.host is None else f', of the whole detector; {decision.host.describe()}'
        return f'{format_limit(decision.metric, decision.limit)} {_unit(decision.metric)}'.strip() + of
    said = [f'{format_limit(m, Limit(*ends))} {_unit(m)}'.strip() for m, ends in facts.limits.items() if any(ends)]
    return ', '.join(said)


def short(metric: str) -> str:
    """A metric's name without its evaluator's: ``coco/bbox_mAP`` is ``bbox_mAP``."""
    return metric.rpartition('/')[2]


def _noun(found: Network) -> str:
    return {GIVEN: 'given network', PICKED: 'picked network', LEADING: 'network that leads so far'}.get(
        found.title, 'found network'
    )


def _unit(metric: str) -> str:
    return '' if metric in METRICS and METRICS[metric].measured else name_metric(metric)


def _compare(share: float) -> str:
    percent = round(100 * abs(1 - share))
    return f'{percent}% {"less" if share < 1 else "more"} than the seed' if percent else 'as much as the seed'


def _trained(kind: str, title: str, arch: ArchSpec, facts: Facts, folder: Path | None) -> Network:
    """A network with its costs and, where a run in a folder trained it, what that gave."""
    costs = dict(cost(arch, facts.input_size, facts.output_stride)._asdict())
    if folder is None or not WorkDir(folder).adapt.is_dir():
        return Network(kind, title, costs, arch)
    adapt = WorkDir(folder).adapt
    log = read_training(adapt)
    return Network(kind, title, costs, arch, log.last, log=log, adapted=adapt)


def _join(network: Network, measured: Any) -> Network:
    """A network with what was measured of it in the search."""
    if measured is None:
        return network
    return replace(network, costs={**measured.costs, **network.costs}, measured=measured.metrics)


def _try(network: Network, trials: Trials | None) -> Network:
    """A network with what it reached in its trial."""
    for row in trials.successes if trials else ():
        value = row.reached(trials.rank_by) if trials else None
        if trials and value is not None and network.arch is not None and same_network(row.arch, network.arch):
            return replace(network, measured={trials.rank_by: value, **network.measured})
    return network


def _add_rows(networks: Sequence[Network], files: WorkDir, facts: Facts) -> Iterator[Network]:
    """The networks with what ``results.json`` says of them, and further rows of it.

    Its multiply-adds may be of another size than the search's: then parameters alone tell which network a row is of.
    """
    results = read_results(files.root)
    rows, same_size = results.get('rows', []), results.get('input_size') in (None, facts.input_size)
    if rows:
        table_cells(rows)  # refuses rows of another form
    full = {short(name): name for network in networks for name in network.trained}
    free = [{**row, 'metrics': {full.get(n, n): value for n, value in row.get('metrics', {}).items()}} for row in rows]
    for network in networks:
        known = ('macs', 'params') if same_size else ('params',)
        match = next((row for row in free if all(row[name] == network.costs.get(name) for name in known)), None)
        if match is None:
            yield network
            continue
        free.remove(match)
        title = match['network'] if network.kind in ('seed', 'found') else network.title
        yield replace(network, title=title, trained={**match['metrics'], **network.trained})
    for row in free:
        costs = {name: row[name] for name in (('macs', 'params') if same_size else ('params',))}
        yield Network('other', row['network'], costs, trained=row['metrics'])
