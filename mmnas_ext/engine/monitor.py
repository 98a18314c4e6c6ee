"""Watches a search while it runs, and says so when it goes wrong."""

import json
import math
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from mmnas_ext.archs import METRICS, SKIP, Prices, prices
from mmnas_ext.backbones import SuperNet
from mmnas_ext.engine.describe import describe_search
from mmnas_ext.engine.limits import derive_path
from mmnas_ext.engine.optim import find_supernet
from mmnas_ext.registry import HOOKS
from mmnas_ext.search.decision import SURE
from mmnas_ext.workdir import WorkDir, append_line, write_text

_MANY, _RARE = 0.75, 0.01  # share of the layers that are skipped, and what hardly happens by chance


@HOOKS.register_module()
class SearchMonitorHook(Hook):
    """Logs alpha, its entropy per layer, expected and argmax cost, skips and how often each path was drawn.

    Costs are multiply-adds, and parameters or milliseconds as well where the search is asked for these.

    Per-layer entropies are divided by the logarithm of the number of candidates: 1 is undecided, 0 decided. The
    certainty of a layer is the probability of its leading candidate against the next one: 0.5 is a coin's. Records go
    to ``search_log.jsonl`` and to the Visualizer (so to TensorBoard, where its backend is configured).

    It warns, once each: where alpha alone decides, when the network that it would choose within the limit skips all
    layers it may, or three quarters of them, more than undecided alphas do by chance, and when the mean certainty still
    is below `late_certainty` at the end; and when that rises above `early_certainty` before half of the arch steps are
    done.

    Args:
        interval: Iterations from one record to the next.
        early_certainty: See above.
        late_certainty: See above.
    """

    priority = 'BELOW_NORMAL'

    def __init__(self, interval: int = 50, early_certainty: float = 0.99, late_certainty: float = 0.75) -> None:
        if interval < 1:
            raise ValueError(f'interval must be at least 1, got {interval}')
        self.interval = interval
        for name, value in (('early_certainty', early_certainty), ('late_certainty', late_certainty)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError(f'{name} must be a probability in 0..1, got {value!r}')
        self.early_certainty = early_certainty
        self.late_certainty = late_certainty
        self._drawn: dict[str, list[int]] = {}
        self._warned: list[str] = []

    def before_train(self, runner: Any) -> None:
        """Says what the run will do, and writes the space beside its log."""
        supernet = find_supernet(runner.model)
        for name, layer in supernet.mixed_layers().items():
            self._drawn.setdefault(name, [0] * len(layer.tokens))
        runner.logger.info(describe_search(runner, supernet))
        if is_main_process():
            write_text(WorkDir(runner.work_dir).search_space, supernet.space.format())

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Counts the drawn path; at an interval, records and checks."""
        supernet = find_supernet(runner.model)
        for name, layer in supernet.mixed_layers().items():
            if layer.choice is not None:
                self._drawn[name][layer.choice] += 1
        last = runner.iter + 1 == runner.max_iters
        if (self.every_n_train_iters(runner, self.interval) or last) and is_main_process():
            measured = measure(supernet, runner.optim_wrapper.prices)
            record = {'iter': runner.iter + 1, 'epoch': runner.epoch, **measured, 'drawn': self._drawn}
            append_line(WorkDir(runner.work_dir).search_log, json.dumps(record))
            runner.visualizer.add_scalars(scalars(record), step=runner.iter + 1)
            self._check(runner, supernet, record)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Keeps the counts in the checkpoint."""
        checkpoint['search_monitor'] = dict(drawn=self._drawn, warned=self._warned)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Takes the counts up again."""
        state = checkpoint.get('search_monitor')
        if state:
            self._drawn = {name: list(counts) for name, counts in state['drawn'].items()}
            self._warned = list(state['warned'])

    def _check(self, runner: Any, supernet: SuperNet, record: dict[str, Any]) -> None:
        alternation = runner.train_loop.alternation
        done, total = alternation.arch_steps(runner.iter + 1), alternation.arch_steps(runner.max_iters)
        if not done:
            return
        certainties = record['certainty'].values()
        certainty, count = sum(certainties) / len(certainties), len(certainties)
        alone = runner.optim_wrapper.selection.type == 'argmax'
        if alone:
            self._check_skips(runner, supernet, record['certainty'])
        if certainty > self.early_certainty and done < total / 2:
            self._warn(runner, 'settled', f'alpha has settled early: mean certainty {certainty:.1%} after {done} of '
                       f'{total} arch steps; a smaller learning rate of alpha may help')  # fmt: skip
        if alone and certainty < self.late_certainty and runner.iter + 1 == runner.max_iters:
            decided = sum(each >= SURE for each in certainties)
            self._warn(runner, 'undecided', f'alpha is undecided: {decided} of {count} layers are {SURE:.0%} certain, '
                       f'{certainty:.1%} on average after {done} arch steps, where 50% is a coin; the argmax reads '
                       "small differences: search longer, or choose by selection=dict(type='measured')")  # fmt: skip

    def _check_skips(self, runner: Any, supernet: SuperNet, certainty: dict[str, float]) -> None:
        layers = {name: layer.tokens for name, layer in supernet.mixed_layers().items() if SKIP in layer.tokens}
        path = derive_path(supernet, runner.optim_wrapper.cost.limit, runner.optim_wrapper.prices)
        places = {name: tuple(map(int, name.split('.'))) for name in layers}
        skipping = [name for name, (i, j) in places.items() if layers[name][path[i][j]] == SKIP]
        if not layers or len(skipping) < _MANY * len(layers):
            return
        sure = sum(certainty[name] for name in skipping) / len(skipping)
        luck = chance_of([1 / len(tokens) for tokens in layers.values()], len(skipping))
        if sure < self.late_certainty and luck > _RARE:
            return
        if len(skipping) == len(layers):
            self._warn(runner, 'all-skip', f'the search has collapsed: the found network skips all {len(layers)} '
                       'layers that it may; a smaller cost weight or a later arch_start may help')  # fmt: skip
        else:
            self._warn(runner, 'skips', 'the search drifts towards collapse: '
                       f'{len(skipping)} of {len(layers)} layers are skips')  # fmt: skip

    def _warn(self, runner: Any, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.append(kind)
            runner.logger.warning(f'iteration {runner.iter + 1}: {message}')


def chance_of(probabilities: Sequence[float], least: int) -> float:
    """Probability that at least so many of some independent events happen, given that of each."""
    counts = [1.0]
    for p in probabilities:
        counts = [a * (1 - p) + b * p for a, b in zip([*counts, 0.0], [0.0, *counts], strict=True)]
    return sum(counts[least:])


def measure(supernet: SuperNet, priced: Prices | None = None) -> dict[str, Any]:
    """What alpha says now: probabilities, normalised entropy and certainty per layer, costs (stem included), skips.

    Args:
        supernet: The super-network.
        priced: Prices by the metric of the search: where that is not multiply-adds, its figures are given beside those.
    """
    layers = supernet.mixed_layers()
    macs = prices(supernet.space, supernet.input_size, supernet.output_stride)
    path = derive_path(supernet)
    costs = {}
    with torch.no_grad():
        probabilities = {name: layer.alpha.double().cpu().softmax(0) for name, layer in layers.items()}
        for each in (macs, priced or macs):
            costs[f'expected_{each.metric}'] = float(supernet.expected_cost(each)) + each.fixed
            costs[f'argmax_{each.metric}'] = each.path(path)
    two = {name: p.topk(min(2, len(p))).values.tolist() for name, p in probabilities.items()}
    entropy = {name: float(torch.special.entr(p).sum()) / math.log(len(p)) for name, p in probabilities.items()}
    chosen = {name: layer.tokens[int(layer.alpha.argmax())] for name, layer in layers.items()}
    return {
        'alpha': {name: [round(v, 6) for v in p.tolist()] for name, p in probabilities.items()},
        'entropy': {name: round(value, 6) for name, value in entropy.items()},
        'certainty': {name: round(best[0] / sum(best), 6) for name, best in two.items()},
        **costs,
        'skips': sum(token == SKIP for token in chosen.values()),
    }


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """The curves of a record, costs in their metric's unit."""
    found = {f'search/entropy_{name}': value for name, value in record['entropy'].items()}
    found['search/entropy'] = sum(record['entropy'].values()) / len(record['entropy'])
    for name, metric in METRICS.items():
        for kind in ('expected', 'argmax'):
            if f'{kind}_{name}' in record:
                found[f'search/{kind}_{metric.curve}'] = record[f'{kind}_{name}'] / metric.unit.size
    found['search/certainty'] = sum(record['certainty'].values()) / len(record['certainty'])
    found['search/skips'] = record['skips']
    for name, counts in record['drawn'].items():
        total = max(1, sum(counts))
        found.update({f'search/drawn_{name}/{i}': count / total for i, count in enumerate(counts)})
    return found
