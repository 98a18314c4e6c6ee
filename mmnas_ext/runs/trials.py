"""What a random search tries: its settings, the networks it draws, the config of a trial, and what trials gave."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from typing import Any, get_type_hints

from mmengine.config import Config

from mmnas_ext.archs import ArchSpec, Prices, SearchSpace, cost, prices
from mmnas_ext.archs.json_file import parse_json
from mmnas_ext.runs.brief import keep_few_checkpoints
from mmnas_ext.runs.derived import derived_config
from mmnas_ext.runs.gradient import read_space
from mmnas_ext.runs.halves import counted_at
from mmnas_ext.runs.keys import describe_hint, fits
from mmnas_ext.runs.later import check_ranking
from mmnas_ext.search import sample_within
from mmnas_ext.search.fields import check_count, check_known

RULES = ('greater', 'less')
_LIMIT_KEYS = ('metric', 'max', 'min', 'table')
_EVALUATION = ('val_dataloader', 'val_cfg', 'val_evaluator')
_MISSING = '\N{EN DASH}'
# a table is written again once there are a fiftieth more trials, or fifty: one of thousands takes
# a good part of a second, and one after each of them would take an hour
_MORE = 50
# costs that every table of trials shows
_COUNTED = ('macs', 'params')


@dataclass(frozen=True)
class TrialSettings:
    """``random_search=dict(…)`` of a config.

    Args:
        rank_by: The metric that ranks trials, as MMEngine reports it: ``'mIoU'``, ``'coco/bbox_mAP'``.
        count: How many networks are tried.
        seed: Of the draw.
        rule: Whether a ``'greater'`` or a ``'less'`` metric is better.
        limit: ``dict(metric='macs', max=…, min=…, table=…)``: what a network may cost, see `mmnas_ext.archs.prices`;
            left out: no limit.
        trial: What differs from the whole adaptation while a network is tried; ``train_cfg`` and ``optim_wrapper`` in
            it replace those of ``derived`` whole.
        keep_checkpoints: Keep the last checkpoint of each trial.

    Raises:
        ValueError: An argument is out of its range.
    """

    rank_by: str
    count: int = 20
    seed: int = 0
    rule: str = 'greater'
    limit: Mapping[str, Any] = field(default_factory=dict)
    trial: Mapping[str, Any] = field(default_factory=dict)
    keep_checkpoints: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.rank_by, str) or not self.rank_by:
            raise ValueError(f"random_search.rank_by must name a metric, such as 'mIoU', got {self.rank_by!r}")
        for name, least in (('count', 1), ('seed', 0)):
            check_count(f'random_search.{name}', getattr(self, name), least)
        if self.rule not in RULES:
            raise ValueError(f'random_search.rule must be one of {RULES}, got {self.rule!r}')
        for name in ('limit', 'trial'):
            value = getattr(self, name)
            if value is None:
                object.__setattr__(self, name, {})
            elif not isinstance(value, Mapping):
                raise ValueError(f'random_search.{name} must be a dict, got {value!r}')
        unknown = sorted(set(self.limit) - set(_LIMIT_KEYS))
        if unknown:
            raise ValueError(f'random_search.limit takes {_LIMIT_KEYS}, got {unknown}')
        for name in ('max', 'min'):
            value = self.limit.get(name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(
                    f'random_search.limit.{name} must be a number in the unit of its metric, got {value!r}'
                )
        if not isinstance(self.keep_checkpoints, bool):
            raise ValueError(f'random_search.keep_checkpoints must be True or False, got {self.keep_checkpoints!r}')

    @classmethod
    def parse(cls, cfg: Config) -> 'TrialSettings':
        """Reads a config's ``random_search``.

        Raises:
            ValueError: A key is unknown or missing, or as above.
        """
        given = cfg.random_search
        if not isinstance(given, Mapping):
            raise ValueError(f'random_search must be a dict, got {given!r}')
        given = copy.deepcopy(cfg.to_dict()['random_search'])
        check_known('random_search', given, cls)
        if 'rank_by' not in given:
            raise ValueError(
                f"random_search must name the metric that ranks trials, rank_by='mIoU', got {sorted(given)}"
            )
        return cls(**given)


@dataclass(frozen=True)
class TrialPlan:
    """Everything that a random search of a config is about to do.

    Args:
        cfg: The search's config.
        settings: Its ``random_search``.
        space: The space of its backbone.
        size: Height and width at which networks are priced.
        output_stride: Of the backbone.
        prices: Of the space, in the limit's metric.
    """

    cfg: Config
    settings: TrialSettings
    space: SearchSpace
    size: tuple[int, int]
    output_stride: int
    prices: Prices

    @classmethod
    def of(cls, cfg: Config) -> 'TrialPlan':
        """Reads a config.

        Raises:
            ValueError: ``random_search`` or its limit is out of range, or the backbone has no space.
            FileNotFoundError: The limit's latency table does not exist.
        """
        settings = TrialSettings.parse(cfg)
        backbone, space = cfg.model.get('backbone') or {}, read_space(cfg)
        size, output_stride = counted_at(backbone)
        metric, table = settings.limit.get('metric', 'macs'), settings.limit.get('table')
        try:
            priced = prices(space, size, output_stride, metric, table)
        except (ValueError, TypeError) as error:
            raise ValueError(f'random_search.limit: {error}') from None
        return cls(cfg, settings, space, size, output_stride, priced)

    @cached_property
    def drawn(self) -> list[tuple[ArchSpec, float]]:
        """Networks in the order in which they are tried, each with its cost in the limit's metric.

        Raises:
            ValueError: There are not that many within the limit.
        """
        wanted = self.settings
        low, high = wanted.limit.get('min'), wanted.limit.get('max')
        try:
            return [*_draw(self.space, self.prices, wanted.count, wanted.seed, high, low)]
        except ValueError as error:
            raise ValueError(f'random_search: {error}') from None

    def trial_config(self, arch: ArchSpec) -> Config:
        """The config of a trial: the derived one, changed by ``trial``.

        Raises:
            ValueError: It cannot be merged, leaves a class of the search, or does not validate.
        """
        whole = copy.deepcopy(self.cfg.derived.to_dict())
        trial = copy.deepcopy(dict(self.settings.trial))
        for key in ('train_cfg', 'optim_wrapper'):
            if key in trial:
                whole.pop(key, None)
        derived = Config(whole)
        try:
            derived.merge_from_dict(trial)
        except (TypeError, KeyError) as error:
            raise ValueError(f'random_search.trial cannot be merged into derived=dict(…): {error}') from None
        cfg = self.cfg.copy()
        cfg.derived = derived.to_dict()
        result = derived_config(cfg, arch, 'random_search')
        missing = [key for key in _EVALUATION if result.get(key) is None]
        if missing:
            raise ValueError(f'random_search ranks trials by their validation, but the config has no {missing}')
        loop = result.train_cfg
        if not any(isinstance(loop.get(key), int) for key in ('max_epochs', 'max_iters')):
            raise ValueError(
                'random_search.trial.train_cfg must be a whole training loop with max_epochs or max_iters, '
                f'got {dict(loop)}'
            )
        keep_few_checkpoints(result)
        return result

    def check(self) -> None:
        """Raises ValueError for what would fail in a trial: the draw, its config, a metric that it does not give."""
        arch, _ = self.drawn[0]
        cfg = self.trial_config(arch)
        check_ranking(cfg, self.settings.rank_by, 'random_search.rank_by')


@lru_cache(maxsize=1)
def _draw(
    space: SearchSpace, priced: Prices, count: int, seed: int, high: float | None, low: float | None
) -> tuple[tuple[ArchSpec, float], ...]:
    """The networks of a plan; kept, for a start reads its plan several times and a thousand networks take seconds."""
    paths = sample_within(space, priced, count, seed, high, low)
    return tuple((space.arch(path), priced.path(path)) for path in paths)


@dataclass(frozen=True)
class Trial:
    """What the trial of one network gave.

    Args:
        index: Place in the order of drawing.
        arch: The network as FNA text.
        macs: Multiply-adds for one image.
        params: Parameters of the backbone.
        cost: In the limit's metric.
        metrics: By name, as MMEngine reports them; ``None`` stands for what was NaN or infinite.
        failure: What ended its training early; empty if nothing did.
        iterations: Done in all.
        seconds: From the beginning of a trial to its end, of what its result came from: what a kill threw away is not
            counted.
        cpu_seconds: The same in seconds of the processor, by the main process and its loaders' workers.
        bn_eps: Batch-norm epsilon that the backbone computed with.
    """

    index: int
    arch: str
    macs: int
    params: int
    cost: float
    metrics: dict[str, float | None]
    failure: str
    iterations: int
    seconds: float
    cpu_seconds: float
    bn_eps: float | None

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            if not fits(getattr(self, name), hint):
                raise TypeError(f'{name} must be {describe_hint(hint)}, got {getattr(self, name)!r:.60}')

    @classmethod
    def parse(cls, text: str | None) -> 'Trial':
        """Reads what `format` wrote.

        Raises:
            ValueError: It is something else; ``None`` stands for a file that cannot be read.
        """
        try:
            return cls(**parse_json(text or ''))
        except (TypeError, ValueError) as error:
            raise ValueError(f'not the result of a trial: {error}') from None

    def format(self) -> str:
        """As JSON text; `parse` reads it back."""
        return json.dumps(asdict(self), indent=2)

    def why_failed(self, rank_by: str) -> str:
        """Why it has no rank by a metric; empty if it has one."""
        if self.failure:
            return self.failure
        if rank_by not in self.metrics:
            return f'the validation gave no {rank_by}'
        return '' if self.metrics[rank_by] is not None else f'{rank_by} is not a finite number'


def rank_trials(trials: Sequence[Trial], rank_by: str, rule: str) -> list[Trial]:
    """Best first, what failed last; of equals the one drawn first."""
    sign = -1 if rule == 'greater' else 1

    def key(trial: Trial) -> tuple[bool, float, int]:
        failed = bool(trial.why_failed(rank_by))
        return failed, 0.0 if failed else sign * (trial.metrics[rank_by] or 0.0), trial.index

    return sorted(trials, key=key)


def trials_table(trials: Sequence[Trial], plan: TrialPlan) -> str:
    """All trials as a Markdown table, best first, aligned so that it also reads as plain text."""
    wanted, metric = plan.settings.rank_by, plan.prices.metric
    rows = rank_trials(trials, wanted, plan.settings.rule)
    others = sorted({name for trial in rows for name in trial.metrics} - {wanted})
    columns = {'trial': [f'{trial.index:02d}' for trial in rows]}
    if metric not in _COUNTED:
        columns[metric] = [plan.prices.show(trial.cost) for trial in rows]
    columns['MAdds'] = [f'{trial.macs / 1e9:.4g} G' for trial in rows]
    columns['parameters'] = [f'{trial.params / 1e6:.4g} M' for trial in rows]
    for name in (wanted, *others):
        columns[name] = _metric_column([trial.metrics.get(name) for trial in rows])
    columns['iterations'] = [str(trial.iterations) for trial in rows]
    columns['minutes'] = [f'{trial.seconds / 60:.1f}' for trial in rows]
    columns['CPU minutes'] = [f'{trial.cpu_seconds / 60:.1f}' for trial in rows]
    failures = [trial.why_failed(wanted) for trial in rows]
    if any(failures):
        columns['failed'] = failures
    widths = {name: max(3, len(name), *map(len, column)) for name, column in columns.items()}
    lines = [list(columns), ['-' * (widths[name] - 1) + ':' for name in columns]]
    lines += [list(row) for row in zip(*columns.values(), strict=True)]
    return '\n'.join(
        '| ' + ' | '.join(cell.rjust(width) for cell, width in zip(line, widths.values(), strict=True)) + ' |'
        for line in lines
    )


def table_is_due(ended: int, count: int) -> bool:
    """Whether the table is written after a trial: each of the first hundred, at least every fiftieth, and the last.

    Args:
        ended: Trials that have ended.
        count: Trials in all.
    """
    return ended == count or ended % max(1, ended // _MORE) == 0


def describe(arch: ArchSpec, plan: TrialPlan, index: int, price: float) -> str:
    """One line about a network that is going to be tried."""
    macs, params = cost(arch, plan.size, plan.output_stride)
    shown = f'{macs / 1e9:.4g} G multiply-adds, {params / 1e6:.4g} M parameters'
    if plan.prices.metric not in _COUNTED:
        shown += f', {plan.prices.show(price)}'
    return f'trial {index + 1} of {plan.settings.count}: {shown}'


def _metric_column(values: Sequence[float | None]) -> list[str]:
    # fractions (MMDetection's mAP) or percent (MMSegmentation's mIoU): one precision a column
    digits = 3 if all(abs(value) <= 1 for value in values if value is not None) else 2
    return [_MISSING if value is None else f'{value:.{digits}f}' for value in values]
