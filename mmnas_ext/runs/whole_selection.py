"""After a search of whole detectors: the choice of the host, then of its backbone, and the networks of the front.

1. Every backbone candidate's loss, in the config's own host, says what a backbone is expected to lose or gain.
2. For every host choice the best backbone under the limit on the whole detector is found exactly; these detectors are
   validated on parts of the held-out images, beside cheaper backbones in the own host (`mmnas_ext.search.host_belief`).
3. In the host that is chosen, the backbone is chosen as in any other search by losses, under the same limit.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property
from time import monotonic
from typing import Any

import numpy as np

from mmnas_ext.archs import Choices, HostChoice, HostChoices, Limit, Prices
from mmnas_ext.engine.host_control import HostControl
from mmnas_ext.engine.limits import CostTerm
from mmnas_ext.engine.optim import find_host, find_supernet
from mmnas_ext.engine.progress import CountingBar
from mmnas_ext.engine.whole import price_wholes, within_reach
from mmnas_ext.reports.training_log import main_metric
from mmnas_ext.runs.selection import Selector, read_validated, spread_limits, tell_fewer
from mmnas_ext.runs.session import say
from mmnas_ext.search.between import best_network
from mmnas_ext.search.choosing import Choosing, FrontPlan
from mmnas_ext.search.decision import ComparedHost, Decision, HostDecision
from mmnas_ext.search.host_belief import HostBelief, Validated, rank
from mmnas_ext.search.measured import MeasuredFront, MeasuredNetwork
from mmnas_ext.workdir import WorkDir

PARTS = 4  # of the held-out images: their paired differences say how sure a choice is
CHEAPER = 3  # backbones in the own host below the limit, which say what a loss is worth
Detector = tuple[HostChoice, Choices]


@dataclass(frozen=True)
class WholeSelector:
    """Chooses among whole detectors of a super-network that has been trained.

    Args:
        runner: The runner that trained it, or one that has loaded its checkpoint.
        term: What a whole detector may cost.
        choosing: How to choose.
        files: The run's work dir; what is measured is kept in it.
        stamp: Which search that was.
    """

    runner: Any
    term: CostTerm
    choosing: Choosing
    files: WorkDir
    stamp: str

    @cached_property
    def control(self) -> HostControl:
        """What gives the detector another host."""
        found = find_host(self.runner)
        assert found is not None, 'such a search has choices'
        return found

    @property
    def choices(self) -> HostChoices:
        """The host's choices."""
        return self.control.choices

    @cached_property
    def wholes(self) -> dict[HostChoice, Prices]:
        """Prices of whole detectors, by the host's choice."""
        supernet = find_supernet(self.runner.model)
        return price_wholes(self.term, self.choices, supernet.space, supernet.output_stride)

    @cached_property
    def plan(self) -> FrontPlan:
        """How many images validate a detector, and calibrate its norms."""
        return self.choosing.front or FrontPlan()

    @cached_property
    def selectors(self) -> dict[HostChoice, Selector]:
        """The choice of a backbone, by host."""
        made = (self.runner, self.choosing, self.term.limit)
        return {
            choice: Selector(*made, priced, self.files, f'{self.stamp}/{choice.format()}', choice, self.choices)
            for choice, priced in self.wholes.items()
        }

    @property
    def own(self) -> Selector:
        """That of the config's own host, where every candidate's loss is measured."""
        return self.selectors[self.choices.own]

    def at(self, choice: HostChoice) -> Selector:
        """The selector of a host, which the detector now has."""
        self.control.set(choice)
        return self.selectors[choice]

    def choose(self) -> tuple[Decision, Detector]:
        """Chooses within the limit; returns what is to be told of it, and the detector.

        Raises:
            ValueError: No whole detector lies within the limit, or the validation does not give the metric.
        """
        feasible = within_reach(self.term, self.wholes)
        self.at(self.choices.own).chooser.explore()
        detectors = self.candidates(list(feasible))
        met = f'{len(feasible)} of {len(self.wholes)} host choices meet the limit'
        say(f'{met}: {len(detectors)} detectors to validate')
        metric, belief = self.believe(detectors)
        chooser = {choice: selector.chooser for choice, selector in self.selectors.items()}
        meeting = [n for n, (choice, path) in enumerate(detectors) if chooser[choice].meets(path, self.term.limit)]
        best, *_ = order = rank(belief, meeting, self.choosing.measuring.certain)
        chosen = detectors[best][0]
        decision, path = self.at(chosen).choose()
        host = HostDecision(
            choice=chosen.format(),
            own=self.choices.own.format(),
            metric=metric,
            parts=tuple(belief.explain(chosen)),
            compared=tuple(self._compared(belief, detectors, number) for number in order),
        )
        return replace(decision, host=host), (chosen, path)

    def candidates(self, feasible: Sequence[HostChoice]) -> list[Detector]:
        """The detectors that are validated, the reference first: the own host, with its best backbone.

        Args:
            feasible: Choices with which some network meets the limit.
        """
        own, limit = self.choices.own, self.term.limit
        careful = self.own.chooser.belief.cautious(self.choosing.measuring.certain)
        best = {choice: self.best(choice, careful, self.selectors[choice].window(limit)) for choice in feasible}
        found = {(own, best.get(own) or self.own.reference): 0}
        found |= {(choice, path): 0 for choice, path in best.items() if path is not None}
        top = self.wholes[own].path(next(iter(found))[1])
        low, expected = self.wholes[own].range()[0], self.own.chooser.belief.cautious(0.0)
        for share in np.linspace(0, 1, CHEAPER + 1)[:-1]:
            path = self.best(own, expected, Limit(None, low + float(share) * max(0.0, top - low)))
            found |= {} if path is None else {(own, path): 0}
        return list(found)

    def best(self, choice: HostChoice, effects: np.ndarray, limit: Limit) -> Choices | None:
        """The network of the lowest sum of effects with which a host meets a limit, exactly; ``None`` without any."""
        rows = [row.tolist() for row in self.own.chooser.belief.by_layer(effects)]
        found = best_network(self.own.supernet.space, self.wholes[choice], rows, limit)
        return None if found is None else self.own.chooser.usual(found)

    def believe(self, detectors: Sequence[Detector]) -> tuple[str, HostBelief]:
        """Validates detectors; returns the metric that decides, and what is believed of them.

        Raises:
            ValueError: The validation does not give the metric on each part of the images.
        """
        bar = CountingBar('whole detectors validated on held-out images:', len(detectors))
        rows = [self.figures(*detector, told=bar.step) for detector in detectors]
        names = sorted({name for row in rows for part in row for name in part})
        metric = self.plan.rank_by or main_metric(names)
        greater = self.plan.rule == 'greater'
        lacking = any(metric not in part for row in rows for part in row)
        if metric is None or metric not in names or (lacking and not greater):
            raise ValueError(
                f'host_choices is decided by {metric or "a metric"} of each part of the held-out images, got '
                f'{names or "nothing: no detector finds anything there, so the search is too short"}'
            )
        return metric, HostBelief(
            self.choices,
            [
                # COCO gives no figure for a detector that finds nothing
                Validated(choice, self.loss(path), tuple(self._sign * part.get(metric, 0.0) for part in row))
                for (choice, path), row in zip(detectors, rows, strict=True)
            ],
        )

    def loss(self, path: Choices) -> float:
        """Expected loss of a backbone less that of the reference, in the own host."""
        return 0.0 if path == self.own.reference else self.own.chooser.belief.network(path)[0]

    def figures(self, choice: HostChoice, path: Choices, told: Callable[[], None]) -> list[dict[str, float]]:
        """What a detector reaches on each part of the held-out images; what is known is not measured again."""
        selector, plan, model = self.at(choice), self.plan, None
        found = []
        for number in range(PARTS):
            stamp = f'{selector.stamp_of(plan)}/part {number} of {PARTS}'
            known = read_validated(self.files.validated, stamp).get(path)
            if known is None:
                model = selector.calibrated(path, plan) if model is None else model
                known = selector.validate(path, model, selector.view(plan.images).every(PARTS, number), stamp)
            found.append(known)
        told()
        return found

    def _compared(self, belief: HostBelief, detectors: Sequence[Detector], number: int) -> ComparedHost:
        choice, path = detectors[number]
        means = [float(np.mean(belief.validated[each].figures)) for each in (number, 0)]
        sign, (expected, error) = self._sign, belief.compare(number)
        return ComparedHost(
            choice.format(), self.wholes[choice].path(path), sign * expected, error, sign * (means[0] - means[1])
        )

    @property
    def _sign(self) -> int:
        """What makes figures of the metric such that higher is better."""
        return 1 if self.plan.rule == 'greater' else -1

    def front(self, chosen: Detector) -> MeasuredFront:
        """Detectors along the axis of the whole cost, each the best one that is expected there, all validated.

        Args:
            chosen: The detector that was chosen, which is one of them.
        """
        own, plan = self.choices.own, self.plan
        places = {chosen: 'chosen', **{each: 'front' for each in self._points(plan) if each != chosen}}
        seed = own, self.own.reference
        if self.own.supernet.seed_path() is not None and places.get(seed) != 'chosen':
            places[seed] = 'seed'
        rows = []
        for (choice, path), origin in places.items():
            selector = self.at(choice)
            metrics, costs = selector.validated([path], plan)[path], selector.costs(path)
            rows.append(MeasuredNetwork(selector.arch(path), costs, metrics, self.loss(path), origin, choice.format()))
        names = list(dict.fromkeys(name for row in rows for name in row.metrics))
        rank_by = plan.rank_by or main_metric(names) or 'none'
        front = MeasuredFront(self.term.metric, rank_by, plan.rule, tuple(rows), {self.term.metric: self.term.limit})
        tell_fewer(front, plan)
        return front

    def _points(self, plan: FrontPlan) -> list[Detector]:
        """For each of some costs below the limit (without one, the own seed's) the detector expected to be best."""
        _, belief = self.believe(self.candidates(list(within_reach(self.term, self.wholes))))
        ranges = [priced.range() for priced in self.wholes.values()]
        low, high = min(row[0] for row in ranges), max(row[1] for row in ranges)
        top = min(self.term.limit.max or self.wholes[self.choices.own].path(self.own.reference), high)
        expected, found = self.own.chooser.belief.cautious(0.0), []
        for limit in spread_limits(plan, low, top):
            paths = {choice: self.best(choice, expected, limit) for choice in self.wholes}
            met = {choice: path for choice, path in paths.items() if path is not None}
            if met:
                found.append(max(met.items(), key=lambda each: belief.predict(each[0], self.loss(each[1]))))
        return found


def select_whole(
    runner: Any, term: CostTerm, choosing: Choosing, files: WorkDir, stamp: str
) -> tuple[Decision, MeasuredFront | None]:
    """Chooses a whole detector from the super-network of a runner, measures the front where it is asked for.

    Args:
        runner: The runner that trained it, or one that has loaded its checkpoint.
        term: What the whole detector may cost.
        choosing: How to choose.
        files: Where what is measured is kept.
        stamp: Which search that was.

    Raises:
        ValueError: No whole detector lies within the limit, or losses do not decide.
    """
    if choosing.type != 'measured':
        raise ValueError(
            f"host_choices needs a selection of type 'measured', got {choosing.type!r}: alpha says nothing of neck and "
            'head'
        )
    selector = WholeSelector(runner, term, choosing, files, stamp)
    with ExitStack() as stack:
        for each in selector.selectors.values():
            stack.enter_context(closing(each.held_out))
        begun = monotonic()
        decision, detector = selector.choose()
        computed = sum(selector.selectors[host].losses.computed for host in {selector.choices.own, detector[0]})
        decision = replace(decision, notes={'losses': computed, 'seconds': round(monotonic() - begun, 1)})
        say(f'{decision.describe()}\n{decision.table()}')
        return decision, None if choosing.front is None else selector.front(detector)
