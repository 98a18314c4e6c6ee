"""The last lines of a run: what it came to, beside the seed, where config and checkpoint are, and the next command."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process

from mmnas_ext.archs import METRICS, ArchSpec, HostChoice, cost
from mmnas_ext.archs.prices import price
from mmnas_ext.reports.beside import reference, same_recipe
from mmnas_ext.reports.table import format_cost, format_size, name_metric
from mmnas_ext.reports.training_log import main_metric
from mmnas_ext.reports.trials import read_trials
from mmnas_ext.runs.checkpoints import find_checkpoint, read_places
from mmnas_ext.runs.halves import TESTED
from mmnas_ext.runs.keys import own_name
from mmnas_ext.runs.manifest import ADAPT, DERIVE, SEARCH, Manifest, ResumeError, read_manifest
from mmnas_ext.runs.next_command import command, run_command
from mmnas_ext.runs.results import last_metrics, trained_metrics
from mmnas_ext.runs.session import Session, say
from mmnas_ext.search.decision import Decision
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.workdir import WorkDir

_WIDTH = 11  # of the words before the lines


def tell_end(session: Session) -> None:
    """Says what a run that has ended came to; a run whose files cannot be read again has ended all the same."""
    if not is_main_process():
        return
    try:
        say(describe_end(session.cfg, session.manifest))
    except Exception as error:
        say(f'the run has ended, files are in {session.files.root} ({type(error).__name__}: {error})')


def tell_choice(cfg: Config, decision: Decision, file: Path) -> None:
    """Says what a network costs that was chosen again from a finished search, and how it is trained."""
    if not is_main_process():
        return
    try:
        manifest = read_manifest(WorkDir(cfg.work_dir).manifest)
        host = None if decision.host is None else decision.host.choice
        lines: dict[str, Any] = {
            'chosen': _costs(cfg, _sized(manifest.report if manifest else {}, host), decision.arch)
        }
        lines |= {'host': '' if host is None else _whole(decision, host), 'network': file}
        say(_format({**lines, 'next': run_command('train', cfg, '--arch', file)}))
    except Exception as error:
        say(f'the network is chosen: {file} ({type(error).__name__}: {error})')


def describe_end(cfg: Config, manifest: Manifest) -> str:
    """The last lines of a run.

    Args:
        cfg: Its config, ``work_dir`` and ``launcher`` set.
        manifest: What its work dir holds.
    """
    files = WorkDir(cfg.work_dir)
    found = manifest.parts.get(DERIVE)
    text = found.notes.get('arch') if found and found.done else None
    if SEARCH in manifest.parts and text is None and not manifest.is_given:
        return _format(_without_network(cfg, manifest, files))
    lines: dict[str, Any] = {}
    if text is not None:
        host = manifest.parts[DERIVE].notes.get('host')
        report = _sized(manifest.report, host)
        lines['given' if manifest.is_given else 'found'] = _costs(cfg, report, ArchSpec.parse(text))
        lines['host'] = _host(host, files)
        lines['reached'] = _reached(manifest, files)
    else:
        lines['trained'] = _own_costs(cfg)
        lines['reached'] = _one(trained_metrics(files.root), None)
    config = files.config if text is not None else Path(str(cfg.filename or ''))
    if config.is_file():
        lines['config'] = config
    if text is not None and not manifest.is_done(ADAPT):
        lines['network'] = files.arch
    if not manifest.is_done(ADAPT):
        lines['weights'] = files.weights if files.weights.is_file() else None
        lines['next'] = run_command('train', cfg, '--resume') if cfg.get('derived') else command('report', files.root)
        return _format(lines)
    places = read_places(manifest.parts[ADAPT].notes.get('checkpoints', []), files.root)
    checkpoint = find_checkpoint(places).path if places else None
    lines['checkpoint'] = checkpoint or 'none is left'
    trained = Config.fromfile(config) if text is not None else cfg
    if checkpoint is not None and config.is_file() and all(trained.get(key) is not None for key in TESTED):
        lines['next'] = command('test', config, checkpoint, '--work-dir', files.root / 'test')
    elif text is not None:
        lines['next'] = command('report', files.root)
    return _format(lines)


def _without_network(cfg: Config, manifest: Manifest, files: WorkDir) -> dict[str, Any]:
    """What is said of a distillation that rates nothing: some blocks are trained, or no rating is asked for."""
    places = read_places(manifest.parts[SEARCH].notes.get('checkpoints', []), files.root)
    checkpoint = find_checkpoint(places).path if places else None
    lines = {'trained': 'blocks of a distillation; nothing is rated', 'config': cfg.filename, 'checkpoint': checkpoint}
    if cfg.get('val_cfg') and checkpoint is not None:
        lines['next'] = run_command('rate', cfg, files=[checkpoint])
        lines['trained'] = 'blocks of a distillation; the next command takes the checkpoints of all, behind this one'
    return lines


def _format(lines: Mapping[str, Any]) -> str:
    return '\n'.join(f'{word:<{_WIDTH}}{line}' for word, line in lines.items() if line)


def _host(choice: str | None, files: WorkDir) -> str:
    """The host that was chosen with the network, and what the whole detector costs; empty without a choice."""
    if choice is None:
        return ''
    with suppress(ValueError, OSError):  # of a given network nothing is known
        decision = Decision.parse(files.decision)
        if decision.host is not None and decision.host.choice == choice:
            return _whole(decision, choice)
    return choice


def _whole(decision: Decision, choice: str) -> str:
    """A host and what the whole detector costs that was chosen with it."""
    figures = [f'{format_cost(name, cost)} {name_metric(name)}' for name, cost in decision.costs.items()]
    return f'{choice}; the whole detector: {", ".join(figures)}'


def _sized(report: Mapping[str, Any], host: str | None) -> Mapping[str, Any]:
    """Facts for a report, at the size of images that the chosen host reads."""
    return report if host is None else {**report, 'input_size': HostChoice.parse(host).input_size}


def _costs(cfg: Config, report: Mapping[str, Any], arch: ArchSpec) -> str:
    """Costs of a network, those of the seed beside them."""
    if 'input_size' not in report:
        return arch.format('fna')
    height, width = report['input_size']
    seed = ArchSpec.parse(report['seed']) if report.get('seed') else None
    shown = []
    for name, figure in _priced(cfg, report, arch).items():
        text = f'{format_cost(name, figure)} {name_metric(name)}'
        beside = _priced(cfg, report, seed).get(name) if seed else None
        shown.append(text if beside is None else f'{text} (seed {format_cost(name, beside)})')
    return f'{", ".join(shown)} at {format_size((height, width))}'


def _priced(cfg: Config, report: Mapping[str, Any], arch: ArchSpec) -> dict[str, float]:
    """Costs by metric; a latency where the table knows all layers."""
    (height, width), stride = report['input_size'], report.get('output_stride', 32)
    found: dict[str, float] = dict(zip(('macs', 'params'), cost(arch, (height, width), stride), strict=True))
    metric = report.get('metric', 'macs')
    if metric in METRICS and METRICS[metric].measured:
        with suppress(ValueError, OSError):  # a seed need not be a network of the space that was measured
            found[metric] = price(arch, (height, width), stride, metric, _table(cfg))
    return found


def _table(cfg: Config) -> Any:
    """The latency table that a config names."""
    places = [
        (cfg.get('optim_wrapper') or {}).get('cost'), (cfg.get('random_search') or {}).get('limit'), cfg.get('val_cfg'),
    ]  # fmt: skip
    return next((place['table'] for place in places if place and place.get('table')), None)


def _own_costs(cfg: Config) -> str:
    """The backbone that a plain config trains; the config says no size to count multiply-adds for."""
    backbone = cfg.model.get('backbone') or {}
    name = own_name(backbone.get('type')) or backbone.get('type') or cfg.model.get('type')
    return f'{name}: {ArchSpec.parse(backbone["arch"]).format("fna")}' if backbone.get('arch') else str(name)


def _reached(manifest: Manifest, files: WorkDir) -> str:
    """The metric of a network, that of the seed beside it where that is known: trained, else on held-out images."""
    report = manifest.report
    mine = last_metrics(files.root) if ADAPT in manifest.parts else {}
    if mine:
        theirs = next(_seed_metrics(files.root, report.get('seed')), {})
        return _one(mine, report.get('rank_by'), theirs)
    searched = _searched(manifest, files)
    if not manifest.is_done(ADAPT):
        return searched
    return 'no metric: its training was not validated, or without a result' + (f'; before: {searched}' * bool(searched))


def _searched(manifest: Manifest, files: WorkDir) -> str:
    """The metric of a network from its search; empty without one."""
    report = manifest.report
    if report.get('rank_by') and not manifest.is_given:
        return _tried(manifest, files)
    front = None if manifest.is_given else MeasuredFront.find(files.root)
    chosen = next((each for each in front.networks if each.origin == 'chosen'), None) if front else None
    if front is None or chosen is None or front.rank_by not in chosen.metrics:
        return ''
    theirs = front.seed.metrics if front.seed else {}
    return f'{_one(chosen.metrics, front.rank_by, theirs)}, untrained, on held-out images'


def _tried(manifest: Manifest, files: WorkDir) -> str:
    """The metric that a random search found its network by."""
    found, name = ArchSpec.parse(manifest.parts[DERIVE].notes['arch']), manifest.report['rank_by']
    trials = read_trials(files.root, name)
    for trial in trials.rows if trials else ():
        value = trial.reached(name)
        if value is not None and trial.arch.stages == found.stages:
            return f'{_one({name: value}, name)}, after its trial'
    return ''


def _seed_metrics(root: Path, seed: str | None) -> Iterator[Mapping[str, float]]:
    """Metrics of runs that trained the seed by the same recipe: inside this work dir or beside it, called ``seed``."""
    for folder in (root / 'seed', root.parent / 'seed'):
        try:
            manifest = read_manifest(WorkDir(folder).manifest) if seed and folder != root else None
        except ResumeError:
            continue
        if manifest is None or not manifest.is_done(ADAPT) or DERIVE not in manifest.parts:
            continue
        text = manifest.parts[DERIVE].notes.get('arch')
        is_seed = text and ArchSpec.parse(text).stages == ArchSpec.parse(seed).stages
        if is_seed and same_recipe(reference(WorkDir(root)), folder):
            yield last_metrics(folder)


def _one(metrics: Mapping[str, float], name: str | None, seed: Mapping[str, float] | None = None) -> str:
    """The metric that counts, as text; empty without any."""
    key = name if name in metrics else main_metric(metrics)
    if key is None:
        return ''
    beside = f' (seed {seed[key]:.4g})' if seed and key in seed else ''
    return f'{key} {metrics[key]:.4g}{beside}'
