"""The search by evolution on a remapped super-network (SPOS, arXiv 1904.00420).

The super-network is that of FNA, remapped from the seed. Its weights alone are trained, along paths that are drawn
uniformly; alpha is not. Then networks within the limit evolve: each is measured with the weights that it shares, on the
half of the images that trained none of them, and of the best few of all generations further batches decide. In several
processes all measure the same network at a time, each on its share of the images.

Files: ``evolution.json``, the generations; ``front.json``, those networks that no other one beats in cost and value;
``derived/decision.json``, how the choice was made; ``selection/``, what was measured, as it is measured.
"""

import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dist import is_main_process

from mmnas_ext.archs import ArchSpec, Choices, Limit, Prices, SearchSpace, prices
from mmnas_ext.engine.limits import CostTerm, check_limit
from mmnas_ext.registry import name_of
from mmnas_ext.reports import write_report
from mmnas_ext.runs.changes import flatten
from mmnas_ext.runs.derived import derived_config
from mmnas_ext.runs.gradient import (
    GRADIENT,
    check_search,
    configs_to_check,
    read_space,
    stamp_of,
    supply_decision,
    train_supernet,
)
from mmnas_ext.runs.halves import check_validating, counted_at
from mmnas_ext.runs.later import check_ranking
from mmnas_ext.runs.manifest import RATING, ResumeError
from mmnas_ext.runs.method import Method, Settings
from mmnas_ext.runs.selection import Selector, evaluation_of
from mmnas_ext.runs.session import Session, say
from mmnas_ext.search import sample_within
from mmnas_ext.search.choosing import Choosing, FrontPlan
from mmnas_ext.search.decision import Decision, normal
from mmnas_ext.search.evolution import Evolution, Evolving, Member, undominated
from mmnas_ext.search.generations import Bred, Generations
from mmnas_ext.search.measure import window
from mmnas_ext.search.measured import MeasuredFront, MeasuredNetwork
from mmnas_ext.workdir import write_text

KEY = 'evolution'
# networks that explain what each layer's choice is worth: the belief takes seconds for that many
_EXPLAINED = 100


@dataclass(frozen=True)
class EvolutionPlan:
    """Everything that an evolution of a config is about to do.

    Args:
        settings: Its ``evolution``.
        space: The space of its backbone.
        size: Height and width at which networks are priced.
        prices: Of the space, in the limit's metric.
        limit: What the network may cost.
    """

    settings: Evolving
    space: SearchSpace
    size: tuple[int, int]
    prices: Prices
    limit: Limit

    @classmethod
    def of(cls, cfg: Config) -> 'EvolutionPlan':
        """Reads a config.

        Raises:
            ValueError: ``evolution`` or ``optim_wrapper.cost`` is out of range, a key of it has no effect, or the
                backbone has no space.
            FileNotFoundError: The latency table does not exist.
        """
        settings, space = Evolving.parse(cfg[KEY]), read_space(cfg)
        term = CostTerm.parse(cfg.optim_wrapper.get('cost'))
        size, stride = counted_at(cfg.model.backbone)
        priced = prices(space, size, stride, term.metric, term.table)
        limit = term.limit.binding(priced.range())
        if cfg[KEY].get('window') is not None and (limit.max is None or term.limit.min is not None):
            raise ValueError(
                f'evolution.window is a share of cost.max and stands for cost.min: it has no effect where the limit is '
                f'{term.limit.show(priced.by)}'
            )
        return cls(settings, space, size, priced, term.limit)

    @cached_property
    def bounds(self) -> Limit:
        """What every network that is measured costs at least and at most."""
        return window(self.limit, self.settings.window, self.prices.range())

    def check(self) -> None:
        """Raises ValueError where too few networks lie within the bounds; says how many, or what can be reached."""
        check_limit(self.prices, self.bounds, self.size)
        try:
            sample_within(
                self.space, self.prices, self.settings.population, self.settings.seed, self.bounds.max, self.bounds.min
            )
        except ValueError as error:
            raise ValueError(f'evolution.population: {error}') from None


class Breeder:
    """An evolution under way on a trained super-network.

    Args:
        session: The run.
        runner: The runner that trained the super-network.
    """

    def __init__(self, session: Session, runner: Any) -> None:
        self.session, self.runner = session, runner
        self.plan = EvolutionPlan.of(session.cfg)
        self.settings, priced = self.plan.settings, self.plan.prices
        stamp = stamp_of(session.manifest, runner.iter)
        choosing = Choosing('measured')
        self.selector = Selector(runner, choosing, self.plan.limit, priced, session.files, stamp)
        self.front_plan = FrontPlan(images=self.settings.images, calibration=self.settings.calibration)
        self.metrics: dict[Choices, dict[str, float]] = {}
        self._told: list[tuple[Bred, ...]] = []
        self.evolution = Evolution(
            self.plan.space, priced, self.plan.bounds, self.settings, self.measure,
            self.selector.supernet.seed_path() if self.settings.start_with_seed else None,
        )  # fmt: skip

    def run(self) -> tuple[Decision, MeasuredFront]:
        """Evolves, and decides.

        Raises:
            ValueError: No network could be measured.
        """
        with closing(self.selector.held_out):
            begun = time.monotonic()
            for number, row in enumerate(self.evolution.run(), start=1):
                self._tell(number, row)
            decision, path = self._decide()
            spent = {'losses': self.selector.losses.computed, 'seconds': round(time.monotonic() - begun, 1)}
            decision = replace(decision, notes={**decision.notes, **spent})
            say(f'{decision.describe()}\n{decision.table()}')
            return decision, self._front(path)

    def measure(self, paths: Sequence[Choices]) -> list[float]:
        """What networks are worth, lower is better; infinite of one whose loss is, or that has no such metric.

        Raises:
            ValueError: The validation gives metrics, but not the one that ranks.
        """
        if self.settings.by_loss:
            losses = self.selector.rate(paths, range(self.settings.batches))
            values = [float(row.mean()) for row in losses]
            self.metrics |= {path: {self.settings.rank_by: value} for path, value in zip(paths, values, strict=True)}
            return values
        self.metrics.update(self.selector.validated(paths, self.front_plan))
        names = sorted({name for path in paths for name in self.metrics[path]})
        if names and all(self.settings.rank_by not in metrics for metrics in self.metrics.values()):
            raise ValueError(
                f'evolution.rank_by must be one of {names}, which the validation gives, got {self.settings.rank_by!r}'
            )
        return [self._sign * self.metrics[path].get(self.settings.rank_by, self._sign * math.inf) for path in paths]

    @property
    def _sign(self) -> int:
        return -1 if self.settings.better == 'greater' else 1

    def _tell(self, number: int, row: Sequence[Member]) -> None:
        """Writes down a generation, and says what it came to."""
        arch = self.selector.arch
        # those of the earlier generations are known: to build all again takes a minute once there are thousands
        self._told.append(tuple(Bred(arch(each.path), each.cost, self._value(each), each.made) for each in row))
        settings, plan = self.settings, self.plan
        told = Generations(
            settings.rank_by, settings.better, plan.prices.metric, plan.bounds, settings.generations, tuple(self._told)
        )
        if is_main_process():
            write_text(self.session.files.evolution, told.format())
        best, mean = told.leads[-1], told.means[-1]
        of = f'generation {number} of {settings.generations}: {len(row)} networks'
        reached = 'all failed' if mean is None else f'mean {settings.rank_by} {mean:.4f}'
        say(f'{of}, {reached}; best so far {"none" if best is None else f"{best:.4f}"}')
        if len(row) < settings.population and number < settings.generations:
            say('no more networks within the limit are left to measure')

    def _value(self, member: Member) -> float | None:
        return self._sign * member.value if math.isfinite(member.value) else None

    def _decide(self) -> tuple[Decision, Choices]:
        """Chooses among the finalists, by their losses on batches that made none of them one, or by their metric."""
        selector, settings, chooser = self.selector, self.settings, self.selector.chooser
        ranked = [each.path for each in self.evolution.ranked()]
        finalists = ranked[: settings.finalists]
        first = settings.batches if settings.by_loss else 0
        if settings.by_loss:
            drawn = [each.path for each in self.evolution.generations[0] if math.isfinite(each.value)]
            chooser.measure(list(dict.fromkeys([*finalists, *drawn, *ranked]))[:_EXPLAINED], first)
        say(f'{len(finalists)} finalists on {settings.final_batches} further batches each')
        fresh = range(first, first + settings.final_batches)
        chooser.measure(finalists, fresh.stop)
        losses = dict(zip(finalists, selector.rate(finalists, fresh), strict=True))
        if settings.by_loss:
            finalists = sorted(finalists, key=lambda path: float(losses[path].mean()))
        best = finalists[0]
        if not math.isfinite(float(losses[best].mean())):
            raise ValueError('the losses of all finalists are infinite: the super-network has not been trained well')
        networks = tuple(selector.compared(path) for path in finalists)
        own = networks[0]
        certain = best != selector.reference and own.error > 0
        decision = selector.decision(
            best, chooser.explain(best, self.plan.bounds), 'loss', networks,
            normal(-own.expected / own.error) if certain else None, self._why(finalists, losses),
        )  # fmt: skip
        return replace(decision, type=KEY), best

    def _why(self, finalists: Sequence[Choices], losses: dict[Choices, np.ndarray]) -> str:
        """Says how the best one and the runner-up differ, in pairs of losses on the same batches."""
        settings, count = self.settings, len(self.evolution.members)
        words = f'the best of {count} networks in {len(self.evolution.generations)} generations'
        if not settings.by_loss:
            shown = [f'{self.metrics[path][settings.rank_by]:.4f}' for path in finalists[:2]]
            words += f' by {settings.rank_by}, {shown[0]}' + (f', the runner-up {shown[1]}' if len(shown) > 1 else '')
        if len(finalists) < 2:
            return words
        pairs = losses[finalists[1]] - losses[finalists[0]]
        if not np.isfinite(pairs).all():
            return f'{words}; the loss of the runner-up is infinite'
        error = float(pairs.std(ddof=1)) / math.sqrt(len(pairs))
        return (
            f'{words}; on {len(pairs)} further batches its loss less that of the runner-up is '
            f'{-float(pairs.mean()):+.4f} ± {error:.4f}'
        )

    def _front(self, chosen: Choices) -> MeasuredFront:
        """The networks that no other one beats, the chosen one, and the seed."""
        selector, settings = self.selector, self.settings
        paths = {each.path: 'front' for each in undominated(self.evolution.members)}
        paths[chosen] = 'chosen'
        if selector.supernet.seed_path() is not None and selector.reference != chosen:
            paths[selector.reference] = 'seed'
            self.measure([selector.reference])
        networks = tuple(
            MeasuredNetwork(selector.arch(path), selector.costs(path), _finite(self.metrics[path]), None, origin)
            for path, origin in paths.items()
        )
        limits = {} if self.plan.limit == Limit() else {self.plan.prices.metric: self.plan.limit}
        return MeasuredFront(self.plan.prices.metric, settings.rank_by, settings.better, networks, limits)


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _find(session: Session) -> ArchSpec:
    return train_supernet(session, searched_config(session.cfg), _evolve)


def _evolve(session: Session, runner: Any) -> ArchSpec:
    session.begin(RATING, session.settings.rating)
    try:
        decision, front = Breeder(session, runner).run()
    except ValueError as error:
        raise ResumeError(f'no network can be chosen: {error}') from None
    session.kept['decision'] = decision
    if is_main_process():
        for former in (session.files.front_figure, session.files.evolution_figure):
            former.unlink(missing_ok=True)
        write_text(session.files.front, front.format())
    session.finish(RATING)
    return decision.arch


def searched_config(cfg: Config) -> Config:
    """The config that trains the super-network: nothing in it reads alpha, which is not trained.

    Args:
        cfg: The config; left as it is.
    """
    result = cfg.copy()
    result.optim_wrapper = {**cfg.optim_wrapper, 'selection': 'measured'}
    # one writes what alpha would give
    result.custom_hooks = [hook for hook in cfg.get('custom_hooks') or [] if name_of(hook) != 'DeriveHook']
    return result


def _check(cfg: Config, arch: ArchSpec | None, search_only: bool) -> list[Config]:
    space = read_space(cfg)
    searched = searched_config(cfg)
    if arch is None:  # else nothing is searched
        _check_keys(cfg)
        plan = EvolutionPlan.of(cfg)
        check_search(searched, space)
        plan.check()
        if not plan.settings.by_loss:
            check_validating(cfg, 'evolution.rank_by')
            check_ranking(cfg, plan.settings.rank_by, 'evolution.rank_by')
    return configs_to_check(cfg, searched, space, arch, search_only)


def _check_keys(cfg: Config) -> None:
    """Raises ValueError for what chooses in another way, or trains alpha, which nothing reads."""
    if cfg.get('random_search') is not None:
        raise ValueError('evolution and random_search both say how a network is found: set one of them to None')
    if cfg.optim_wrapper.get('selection') is not None:
        raise ValueError(
            'optim_wrapper.selection chooses from a search by gradients, and evolution chooses otherwise: set it to '
            f'None, got {cfg.optim_wrapper.selection!r:.60}'
        )
    loop = cfg.train_cfg
    last = loop.get('max_epochs', loop.get('max_iters'))
    if loop.get('arch_start') != last:
        raise ValueError(
            f'train_cfg.arch_start must be {last}, the length of the search, got {loop.get("arch_start")!r}: '
            'evolution reads no alpha, so that none is trained'
        )


def _settings(cfg: Config) -> Settings:
    plain = cfg.copy()
    plain.optim_wrapper = {key: value for key, value in cfg.optim_wrapper.items() if key != 'selection'}
    known = GRADIENT.settings(plain)
    settings = Evolving.parse(cfg[KEY])
    choice = {**known.choice, **flatten(asdict(settings), KEY)}
    if not settings.by_loss:
        choice[f'{KEY}.evaluation'] = evaluation_of(cfg)
    return replace(known, choice=choice, report={**known.report, 'method': KEY})


def _plan(cfg: Config) -> list[str]:
    plan, settings = EvolutionPlan.of(cfg), Evolving.parse(cfg[KEY])
    measured = f'{settings.batches} batches' if settings.by_loss else f'{settings.images or "all"} images'
    return [
        f'limit        {plan.bounds.show(plan.prices.by)}',
        f'evolution    {settings.generations} generations of {settings.population} networks, ranked by '
        f'{settings.rank_by} on {measured} of the held-out half',
    ]


EVOLUTION = Method(
    KEY,
    claims=lambda cfg: bool(cfg.get('derived')) and cfg.get(KEY) is not None,
    check=_check,
    settings=_settings,
    find=_find,
    derive=partial(derived_config, own_key=KEY),
    supply=supply_decision,
    report=write_report,
    plan=_plan,
    check_batches=lambda cfg, batches: Evolving.parse(cfg[KEY]).check_batches(batches[-1]),
    writes=('search_space', 'search_log', 'evolution', 'front', 'decision'),
    keeps_limit=True,
    seeds=('train_cfg.split_seed', 'evolution.seed'),
)
