"""After a search by gradients: the choice of a network, what is written of it, and the networks of the front."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mmnas_ext.archs import ArchSpec, Choices, Limit, Prices, cost
from mmnas_ext.engine.batches import Batches
from mmnas_ext.engine.limits import CostTerm, check_limit, derive_path
from mmnas_ext.engine.optim import find_supernet
from mmnas_ext.engine.path_losses import PathLosses
from mmnas_ext.engine.progress import CountingBar
from mmnas_ext.engine.seeding import common_seed
from mmnas_ext.runs.session import say
from mmnas_ext.search.choosing import Choosing
from mmnas_ext.search.decision import Compared, Decision, LayerChoice, normal
from mmnas_ext.search.measure import Chooser, window
from mmnas_ext.workdir import WorkDir

_COUNTED = ('macs', 'params')


@dataclass(frozen=True)
class Selector:
    """Chooses among the networks of a super-network that has been trained.

    Args:
        runner: The runner that trained it, or one that has loaded its checkpoint.
        choosing: How to choose.
        limit: What the network may cost.
        priced: Prices of the space by the limited metric.
        files: The run's work dir; what is measured is kept in it.
        stamp: Which search that was: measurements of another are not used.
    """

    runner: Any
    choosing: Choosing
    limit: Limit
    priced: Prices
    files: WorkDir
    stamp: str

    @cached_property
    def supernet(self) -> Any:
        """The super-network."""
        return find_supernet(self.runner.model)

    @cached_property
    def held_out(self) -> Batches:
        """Images of the half that trained alpha and no weights, in training batches of a fixed order."""
        loader = self.runner.train_loop.alternation.batches.loader
        return Batches(loader, common_seed(self.runner), 'selection')

    @cached_property
    def losses(self) -> PathLosses:
        """Losses on the held-out images."""
        seed = common_seed(self.runner)
        return PathLosses(self.runner.model, self.held_out, seed, self.files.path_losses, self.stamp)

    @cached_property
    def reference(self) -> Choices:
        """The seed's path; where it is no network of the space, that of alpha's argmax."""
        seed = _seed_of(self.supernet)
        space = self.supernet.space
        if seed is not None:
            plain = seed.replace(bn_eps=space.bn_eps, head_channels=space.head_channels, act=space.act)
            if plain in space:
                return space.path(plain)
        return self.supernet.best_path()

    @cached_property
    def chooser(self) -> Chooser:
        """The choice by measured losses."""
        return Chooser(self.supernet.space, self.priced, self.reference, self._rate, self.choosing.measuring, say)

    def choose(self) -> Decision:
        """Chooses within the limit.

        Raises:
            ValueError: No network lies within it, or an alpha is NaN or infinite.
        """
        return self._by_alpha() if self.choosing.type == 'argmax' else self._by_losses()

    def _by_alpha(self) -> Decision:
        path = derive_path(self.supernet, self.limit, self.priced)
        layers = []
        for name, layer in self.supernet.mixed_layers().items():
            i, j = map(int, name.split('.'))
            shares = layer.alpha.detach().double().cpu().softmax(0).tolist()
            chosen = path[i][j]
            other = max((c for c in range(len(shares)) if c != chosen), key=lambda c: shares[c])
            lead = shares[chosen] - shares[other]
            scores = dict(zip(layer.tokens, shares, strict=True))
            sure = shares[chosen] / (shares[chosen] + shares[other])
            layers.append(LayerChoice(name, layer.tokens[chosen], layer.tokens[other], lead, None, sure, scores))
        return self._decision(path, layers, score='probability')

    def _by_losses(self) -> Decision:
        chooser, settings = self.chooser, self.choosing.measuring
        check_limit(self.priced, self.limit, self.supernet.input_size)
        chooser.explore()
        bounds = self._window(self.limit)
        ranked = chooser.search(bounds)
        if not ranked:
            raise ValueError(f'no network within {bounds.show(self.priced.by)} was found to measure')
        networks = tuple(self._compared(path) for path in ranked)
        best, why = ranked[0], ''
        if self._meets(self.reference) and not networks[0].expected < -settings.certain * networks[0].error:
            best = self.reference
            why = (
                f'the reference is kept: the best other network is expected to differ by {networks[0].expected:+.4f} '
                f'± {networks[0].error:.4f}'
            )
        first = networks[0]
        better = normal(-first.expected / first.error) if first.error else None
        layers = chooser.explain(best, bounds)
        return self._decision(best, layers, 'loss', networks, 0.5 if best == self.reference else better, why)

    def _decision(
        self,
        path: Choices,
        layers: Sequence[LayerChoice],
        score: str,
        networks: tuple[Compared, ...] = (),
        better: float | None = None,
        why: str = '',
    ) -> Decision:
        arch = self.arch(path)
        return Decision(
            type=self.choosing.type,
            score=score,
            arch=arch,
            metric=self.priced.metric,
            costs=self.costs(path),
            limit=self.limit,
            layers=tuple(layers),
            networks=networks,
            reference=self.arch(self.reference),
            better=better,
            why=why,
        )

    def arch(self, path: Choices) -> ArchSpec:
        """The network of a path, with the batch-norm epsilon that the super-network computes with."""
        return self.supernet.space.arch(path).replace(bn_eps=self.supernet.bn_eps)

    def costs(self, path: Choices) -> dict[str, float]:
        """Cost of a path's network in every metric that is known here."""
        supernet = self.supernet
        macs, params = cost(supernet.space.arch(path), supernet.input_size, supernet.output_stride)
        return {'macs': macs, 'params': params, self.priced.metric: self.priced.path(path)}

    def _window(self, limit: Limit) -> Limit:
        """The limit, with the share of it that must be used; where nothing costs just that, the limit alone."""
        bounds = window(limit, self.choosing.measuring.window, self.priced.range())
        try:
            check_limit(self.priced, bounds, self.supernet.input_size)
        except ValueError:
            return limit
        return bounds

    def _meets(self, path: Choices) -> bool:
        by, figure = self.priced.by, self.priced.path(path)
        low, high = self.limit
        return (low is None or by.steps(figure) >= by.steps_from(low)) and (
            high is None or by.steps(figure) <= by.steps_within(high)
        )

    def _compared(self, path: Choices) -> Compared:
        expected, error = self.chooser.belief.network(path)
        known = self.chooser.belief.measured
        return Compared(self.arch(path), self.priced.path(path), expected, error, known.mean(path), known.count(path))

    def _rate(self, paths: Sequence[Choices], positions: Iterable[int]) -> np.ndarray:
        places = list(positions)
        bar = CountingBar('', self.losses.missing(paths, places))
        self.losses.told = bar.step
        return self.losses.rate(paths, places)


def _seed_of(supernet: Any) -> ArchSpec | None:
    """The architecture that a super-network's weights came from, if its config names one."""
    init = supernet.init_cfg if isinstance(supernet.init_cfg, dict) else {}
    seed = init.get('seed')
    return ArchSpec.parse(seed['arch']) if isinstance(seed, dict) and 'arch' in seed else None


def select(runner: Any, term: CostTerm, choosing: Choosing, files: WorkDir, stamp: str) -> Decision:
    """Chooses a network from the super-network of a runner, and says how.

    Args:
        runner: The runner that trained it, or one that has loaded its checkpoint.
        term: What the network may cost.
        choosing: How to choose.
        files: Where what is measured is kept.
        stamp: Which search that was.

    Raises:
        ValueError: No network lies within the limit, or an alpha is NaN or infinite.
    """
    supernet = find_supernet(runner.model)
    priced = term.prices(supernet.space, supernet.input_size, supernet.output_stride)
    selector = Selector(runner, choosing, term.limit, priced, files, stamp)
    decision = selector.choose()
    say(f'{decision.describe()}\n{decision.table()}')
    return decision
