"""After a search by gradients: the choice of a network, what is written of it, and the networks of the front."""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import broadcast_object_list, is_main_process

from mmnas_ext.archs import ArchSpec, Choices, HostChoice, HostChoices, Limit, Prices, cost
from mmnas_ext.archs.json_file import parse_lines
from mmnas_ext.datasets import DatasetView
from mmnas_ext.datasets.identity import list_datasets
from mmnas_ext.engine.batches import Batches, describe_reading, named_scope, whole_batches, without_repeats
from mmnas_ext.engine.limits import CostTerm, check_limit, derive_path
from mmnas_ext.engine.optim import find_supernet
from mmnas_ext.engine.path_losses import PathLosses
from mmnas_ext.engine.progress import CountingBar
from mmnas_ext.engine.seeding import common_seed
from mmnas_ext.engine.subnet import calibrate, held_out_view, subnet, validate
from mmnas_ext.reports.training_log import main_metric
from mmnas_ext.runs.changes import flatten
from mmnas_ext.runs.halves import host_of
from mmnas_ext.runs.host_choices import has_host
from mmnas_ext.runs.image_size import former_size, scaled_pipeline
from mmnas_ext.runs.last_rung import LastRung
from mmnas_ext.runs.session import say
from mmnas_ext.search.choosing import AdaptPlan, Choosing, FrontPlan
from mmnas_ext.search.decision import Adapted, Compared, Decision, LayerChoice
from mmnas_ext.search.measure import Chooser, window
from mmnas_ext.search.measured import MeasuredFront, MeasuredNetwork
from mmnas_ext.workdir import WorkDir, append_line


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
        host: Of a search that chooses the host too, the one that networks are measured in; prices are whole detectors'.
        choices: What that is one of.
    """

    runner: Any
    choosing: Choosing
    limit: Limit
    priced: Prices
    files: WorkDir
    stamp: str
    host: HostChoice | None = None
    choices: HostChoices | None = None

    @cached_property
    def supernet(self) -> Any:
        """The super-network."""
        return find_supernet(self.runner.model)

    @cached_property
    def held_out(self) -> Batches:
        """Images of the half that trained alpha and no weights, in training batches of a fixed order."""
        loader = without_repeats(self.runner, self.runner.train_loop.alternation.batches.loader)
        return Batches(loader, common_seed(self.runner), 'selection')

    @cached_property
    def reading(self) -> str:
        """The stamp, and how held-out images are read: losses of other augmentations do not pair with these."""
        return f'{self.stamp}/{describe_reading(self.held_out.loader)}'

    @cached_property
    def losses(self) -> PathLosses:
        """Losses on the held-out images."""
        seed = common_seed(self.runner)
        return PathLosses(self.runner.model, self.held_out, seed, self.files.path_losses, self.reading)

    @cached_property
    def reference(self) -> Choices:
        """The seed's path; where it is no network of the space, that of alpha's argmax."""
        return self.supernet.seed_path() or self.supernet.best_path()

    @cached_property
    def chooser(self) -> Chooser:
        """The choice by measured losses."""
        wanted, batches = self.choosing.measuring, whole_batches(self.held_out.loader)
        settings = wanted.within(batches)
        if settings != wanted:
            say(f'the held-out images are {batches} batches: no network is measured on more, or images would repeat')
        return Chooser(self.supernet.space, self.priced, self.reference, self.rate, settings, say)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width at which networks are priced."""
        found: tuple[int, int] = self.supernet.input_size if self.host is None else self.host.input_size
        return found

    def choose(self) -> tuple[Decision, Choices]:
        """Chooses within the limit; returns what is to be told of it, and the path.

        Raises:
            ValueError: No network lies within it, or an alpha is NaN or infinite.
        """
        return self._by_alpha() if self.choosing.type == 'argmax' else self._by_losses()

    def _by_alpha(self) -> tuple[Decision, Choices]:
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
        return self.decision(path, layers, score='probability'), path

    def _by_losses(self) -> tuple[Decision, Choices]:
        chooser, loop = self.chooser, self.runner.train_loop
        check_limit(self.priced, self.limit, self.size)
        if self.supernet.seed_path() is None and not loop.alternation.arch_steps(loop.max_iters):
            say(
                'warning: the seed is no network of this space and alpha was not trained: networks are held against '
                'one that is drawn at random, and it is kept unless another one is surely better'
            )
        chooser.explore()
        bounds = self.window(self.limit)
        ranked = chooser.search(bounds)
        best, networks = chooser.decide(ranked, self.limit), tuple(self.compared(path) for path in ranked)
        if self.choosing.adapt is not None:
            stands = self.reference if chooser.meets(self.reference, self.limit) else best
            if set(ranked) - {stands}:
                return self._by_adapting(self.choosing.adapt, best, stands, ranked)
            say('nothing is adapted: no other network was measured within the limit')
        layers = chooser.explain(best, bounds)
        if best != self.reference:
            return self.decision(best, layers, 'loss', networks, chooser.better(best)), best
        told = [f'{each.expected:+.4f} ± {each.error:.4f}' for each in networks[:1]]
        why = f'the best other network is expected to differ by {told[0]}' if told else 'no other one costs as much'
        return self.decision(best, layers, 'loss', networks, why=f'the reference is kept: {why}'), best

    def _by_adapting(
        self, plan: AdaptPlan, first: Choices, stands: Choices, ranked: Sequence[Choices]
    ) -> tuple[Decision, Choices]:
        """Adapts the most promising of measured networks briefly; one must be surely better than what stands by now.

        Args:
            plan: How.
            first: What losses have chosen.
            stands: What is to be beaten.
            ranked: All that were measured as wholes.

        Raises:
            ValueError: No network finds anything after so short a training.
        """
        tried = dict.fromkeys([first, *self.chooser.promising(ranked, plan.networks + 1)])
        others = [path for path in tried if path != stands][: plan.networks]
        settings = replace(self.choosing.measuring, certain=plan.certain)
        judge = Chooser(self.supernet.space, self.priced, stands, self.rung.rate, settings, say, alike=True)
        few = '' if len(others) == plan.networks else f', where selection.adapt.networks is {plan.networks}'
        say(f'{len(others)} networks and the one that stands are adapted briefly{few}')
        order = judge.halve(others, plan.repeats)
        self.rung.drop_rest()
        best, sign, known = judge.decide(order, self.limit), -self.rung.sign, judge.belief.measured
        compared = []
        for path in order:
            expected, error = judge.belief.network(path)
            figures = sign * expected, error, sign * known.mean(path), known.count(path)
            compared.append(Compared(self.arch(path), self.priced.path(path), *figures))
        noise = judge.belief.noise.single if known.repetitions() else None
        adapted = Adapted(self.rung.metric or '', self.rung.share, self.arch(stands), tuple(compared), noise)
        layers, networks = self.chooser.explain(best, self.window(self.limit)), tuple(map(self.compared, ranked))
        if best == stands:
            why, better = f'the network that stood is kept: {adapted.describe()}', None
        else:
            why, better = adapted.describe(), judge.better(best)
        return replace(self.decision(best, layers, 'loss', networks, better, why), adapted=adapted), best

    @cached_property
    def rung(self) -> LastRung:
        """What adapts networks briefly."""
        assert self.choosing.adapt is not None
        return LastRung(self.runner.cfg, self.choosing.adapt, self.arch, self.arch(self.reference), self.files)

    def decision(
        self,
        path: Choices,
        layers: Sequence[LayerChoice],
        score: str,
        networks: tuple[Compared, ...] = (),
        better: float | None = None,
        why: str = '',
    ) -> Decision:
        """What is to be told of the choice of a path."""
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
        counted = cost(supernet.space.arch(path), self.size, supernet.output_stride)._asdict()
        if self.host is not None and self.choices is not None:
            counted = {name: figure + self.choices.cost(self.host, name) for name, figure in counted.items()}
        return {**counted, self.priced.metric: self.priced.path(path)}

    def window(self, limit: Limit) -> Limit:
        """The limit, with the share of it that must be used; where nothing costs just that, the limit alone."""
        bounds = window(limit, self.choosing.measuring.window, self.priced.range())
        try:
            check_limit(self.priced, bounds, self.size)
        except ValueError:
            return limit
        return bounds

    def compared(self, path: Choices) -> Compared:
        """A path that the chooser has measured, as it stands against the reference."""
        expected, error = self.chooser.belief.network(path)
        known = self.chooser.belief.measured
        return Compared(self.arch(path), self.priced.path(path), expected, error, known.mean(path), known.count(path))

    def front(self, plan: FrontPlan, chosen: Choices) -> MeasuredFront:
        """Networks along the axis of the cost, each validated on held-out images with the super-network's weights.

        Args:
            plan: Which.
            chosen: The path that was chosen, which is one of them.
        """
        paths = {chosen: 'chosen', **{path: 'front' for path in self._points(plan) if path != chosen}}
        if self.supernet.seed_path() is not None and paths.get(self.reference) != 'chosen':
            paths[self.reference] = 'seed'
        known = self.validated(paths, plan)
        names = list(dict.fromkeys(name for metrics in known.values() for name in metrics))
        rank_by = plan.rank_by or main_metric(names) or 'none'
        found = MeasuredFront(
            metric=self.priced.metric,
            rank_by=rank_by,
            rule=plan.rule,
            networks=tuple(
                MeasuredNetwork(self.arch(path), self.costs(path), known[path], self.score(path), origin)
                for path, origin in paths.items()
            ),
            limits={self.priced.metric: self.limit},
        )
        tell_fewer(found, plan)
        return found

    def _points(self, plan: FrontPlan) -> list[Choices]:
        """A network for each of some costs that lie evenly below that of the limit; without one, below the seed's."""
        low, high = self.priced.range()
        top = min(self.limit.max or self.priced.path(self.reference), high)
        found = []
        for limit in spread_limits(plan, low, top):
            if self.choosing.type == 'argmax':
                found.append(derive_path(self.supernet, limit, self.priced))
                continue
            path = self.chooser.point(self.window(limit), plan.candidates)
            found += [] if path is None else [path]
        return found

    def score(self, path: Choices) -> float | None:
        """Expected loss of a path less that of the reference; ``None`` where alpha decides."""
        if self.choosing.type == 'argmax':
            return None
        return self.chooser.belief.network(path)[0] if path != self.reference else 0.0

    def validated(self, paths: Iterable[Choices], plan: FrontPlan) -> dict[Choices, dict[str, float]]:
        """What networks reach on held-out images; what an interrupted run has measured is not measured again.

        Args:
            paths: The networks.
            plan: How many images and batches.
        """
        stamp = self.stamp_of(plan)
        known = read_validated(self.files.validated, stamp)
        wanted = list(paths)
        self.files.validated.parent.mkdir(parents=True, exist_ok=True)
        bar = CountingBar('validated on held-out images:', sum(path not in known for path in wanted))
        view = self.view(plan.images)
        for path in wanted:
            if path in known:
                continue
            known[path] = self.validate(path, self.calibrated(path, plan), view, stamp)
            bar.step()
        return {path: known[path] for path in wanted}

    def calibrated(self, path: Choices, plan: FrontPlan) -> Any:
        """The network of a path as a model of its own, its batch norms calibrated on held-out images."""
        model = subnet(self.runner.model, path)
        self.held_out.start(0)
        calibrate(model, (next(self.held_out) for _ in range(plan.calibration)))
        return model

    def validate(self, path: Choices, model: Any, view: DatasetView, stamp: str) -> dict[str, float]:
        """Validates the network of a path on images, and writes down under a stamp what it reaches."""
        metrics = validate(model, self.runner, view, self.runner.cfg.val_evaluator)
        if is_main_process():
            append_line(self.files.validated, json.dumps(dict(stamp=stamp, path=path, metrics=metrics)))
        return metrics

    def stamp_of(self, plan: FrontPlan) -> str:
        """Tells what is validated here from what is on other images, or in another way."""
        return f'{self.reading}/{plan.images}/{plan.calibration}/{evaluation_of(self.runner.cfg)}'

    def view(self, images: int | None) -> DatasetView:
        """Held-out images as the validation reads them, of the host's size where there is one."""
        half = self.runner.train_loop.alternation.batches.loader.dataset
        cfg = self.runner.cfg
        whole = cfg.val_dataloader.dataset
        read = next(list_datasets(whole))  # inside of wrappers
        pipeline = read['pipeline']
        if self.host is not None:
            former = former_size(cfg) or self.size
            pipeline = scaled_pipeline(pipeline, former, self.supernet.input_size, self.size, host_of(cfg))
        return held_out_view(half, pipeline, images, named_scope(read) or named_scope(whole))

    def rate(self, paths: Sequence[Choices], positions: Iterable[int]) -> np.ndarray:
        """Losses ``(paths, positions)`` on held-out batches; a bar counts those that are computed."""
        places = list(positions)
        bar = CountingBar('', self.losses.missing(paths, places))
        self.losses.told = bar.step
        return self.losses.rate(paths, places)


def select(
    runner: Any, term: CostTerm, choosing: Choosing, files: WorkDir, stamp: str
) -> tuple[Decision, MeasuredFront | None]:
    """Chooses a network from the super-network of a runner, measures the front where it is asked for, and says both.

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
    with closing(selector.held_out):
        begun = time.monotonic()
        decision, path = selector.choose()
        if choosing.type == 'measured':
            spent = {'losses': selector.losses.computed, 'seconds': round(time.monotonic() - begun, 1)}
            if choosing.adapt is not None:
                spent['trainings'] = selector.rung.trained
            decision = replace(decision, notes=spent)
        say(f'{decision.describe()}\n{decision.table()}')
        if choosing.front is None:
            return decision, None
        return decision, selector.front(choosing.front, path)


def spread_limits(plan: FrontPlan, low: float, top: float) -> list[Limit]:
    """Limits of the networks of a front beside the chosen one, evenly over what there is below the highest cost.

    Args:
        plan: How many, and from which share of the highest cost on.
        low: Cost of the cheapest network.
        top: The highest cost.
    """
    shares = np.linspace(max(plan.least, min(1.0, low / top)), 1, plan.networks)[:-1]
    return [Limit(None, max(float(share) * top, low)) for share in shares]


def tell_fewer(front: MeasuredFront, plan: FrontPlan) -> None:
    """Says where a front has fewer networks than were asked for."""
    if len(front.points) < plan.networks:
        say(
            f'the front has {len(front.points)} of the {plan.networks} networks asked for: at the other costs one of '
            'these, or the seed, is the best'
        )


def evaluation_of(cfg: Mapping[str, Any]) -> str:
    """A digest of what decides a metric beside the network: how images are read, and the evaluator.

    Args:
        cfg: The config; another validation of it makes no other weights, and so goes on with the same super-network.
    """
    read = next(list_datasets((cfg.get('val_dataloader') or {}).get('dataset')), {})
    found = {'pipeline': read.get('pipeline'), 'evaluator': cfg.get('val_evaluator')}
    if has_host(cfg):  # images of a host's size are scaled from this one
        found['size'] = former_size(cfg)
    return hashlib.sha256(json.dumps(flatten(found), sort_keys=True).encode()).hexdigest()[:16]


def read_validated(file: Path, stamp: str) -> dict[Choices, dict[str, float]]:
    """What was measured of paths under a stamp; the same on all ranks, damaged lines passed over."""
    found: list[Any] = [{}]
    if is_main_process() and file.is_file():
        for record in parse_lines(file):
            with suppress(KeyError, TypeError, ValueError):
                if record['stamp'] == stamp:
                    path = tuple(tuple(int(choice) for choice in choices) for choices in record['path'])
                    found[0][path] = {str(name): float(value) for name, value in record['metrics'].items()}
    broadcast_object_list(found)
    return dict(found[0])
