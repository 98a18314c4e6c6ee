"""What a search decided: per layer what was chosen, by how much, how surely, and the networks it was chosen among."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmnas_ext.archs import METRICS, ArchSpec, HostChoice, Limit
from mmnas_ext.archs.literal import call_at
from mmnas_ext.archs.metrics import show
from mmnas_ext.search.fields import check_kind, check_list_of, find_file, read_object, take, take_list

SURE = 0.95  # a candidate that is better than the next one with this probability is decided
KINDS = ('argmax', 'measured')  # ways to choose from a search by gradients
TYPES = (*KINDS, 'evolution')


@dataclass(frozen=True)
class LayerChoice:
    """What was chosen in a layer.

    Args:
        layer: ``'<stage>.<layer>'``.
        chosen: Token of the chosen candidate.
        runner_up: Token of the best other one.
        lead: By how much the chosen one is better; negative where the limit asked for it.
        error: Standard deviation of the lead; ``None`` where nothing says.
        certainty: Probability that it is the better of the two.
        scores: Of every candidate.
    """

    layer: str
    chosen: str
    runner_up: str
    lead: float
    error: float | None
    certainty: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Compared:
    """A network that was compared as a whole.

    Args:
        arch: The network.
        cost: In the decision's metric.
        expected: Expected loss less that of the reference, after shrinkage.
        error: Its standard deviation.
        measured: The difference that was measured.
        batches: On so many batches.
    """

    arch: ArchSpec
    cost: float
    expected: float
    error: float
    measured: float | None = None
    batches: int = 0

    def cells(self) -> list[str]:
        """What was expected, measured, and on how many batches, as a table says it."""
        measured = '–' if self.measured is None else f'{self.measured:+.4f}'
        return [f'{self.expected:+.4f} ± {self.error:.4f}', measured, str(self.batches)]


@dataclass(frozen=True)
class ComparedHost:
    """A whole detector that was compared for its host choice.

    Args:
        choice: The text of its `HostChoice`.
        cost: Of the whole detector, in the decision's metric.
        expected: Expected figure of the validation less that of the reference, after shrinkage.
        error: Its standard deviation.
        measured: The difference that was measured.
    """

    choice: str
    cost: float
    expected: float
    error: float
    measured: float


@dataclass(frozen=True)
class HostDecision:
    """What was decided of neck, head and image size, where these are searched too.

    Args:
        choice: The text of the `HostChoice` that was chosen.
        own: That of the config's own host, the reference.
        metric: What the validation counts that decided, and in whose unit leads and scores are.
        parts: Per offered part what was chosen, beside equal backbones.
        compared: The detectors that were compared, the first one chosen.
    """

    choice: str
    own: str
    metric: str
    parts: tuple[LayerChoice, ...]
    compared: tuple[ComparedHost, ...]

    def describe(self) -> str:
        """The decision in words."""
        first = self.compared[0]
        if first.choice == self.own:
            return f"host {self.choice}, the config's own, is kept"
        return f'host {self.choice}: {first.expected:+.4f} ± {first.error:.4f} {self.metric} over {self.own}'

    def table(self) -> str:
        """Parts and detectors as aligned text."""
        head = ('whole detector', 'cost', f'{self.metric}, expected', 'measured')
        rows = [
            (
                each.choice, f'{each.cost:.5g}', f'{each.expected:+.4f} ± {each.error:.4f}', f'{each.measured:+.4f}',
            )
            for each in self.compared
        ]  # fmt: skip
        return f'{_layer_table(self.parts, "part")}\n{aligned([head, *rows])}'


@dataclass(frozen=True)
class Adapted:
    """What brief adaptations of networks decided.

    Args:
        metric: What the validation counts that decided; differences are in its unit.
        share: Of the whole adaptation's length.
        reference: The network that all are compared with.
        networks: The others, the best first; ``batches`` are trainings.
        noise: Standard deviation of one training's figure by its random seed, estimated; ``None`` where no network was
            trained twice.
    """

    metric: str
    share: float
    reference: ArchSpec
    networks: tuple[Compared, ...]
    noise: float | None = None

    def describe(self) -> str:
        """What decided in words."""
        if not self.networks:
            return 'no brief adaptation of another network succeeded'
        first = self.networks[0]
        noise = '' if self.noise is None else f'; one training of a network varies by {self.noise:.4f}'
        return (
            f'adapted for {self.share:.0%} of the whole length and validated on held-out images, the best other '
            f'network is expected to differ by {first.expected:+.4f} ± {first.error:.4f} {self.metric}{noise}'
        )

    def table(self) -> str:
        """The networks as aligned text."""
        what = 'adapted briefly: stages that differ from the reference'
        head = (what, 'cost', f'{self.metric}, expected', 'measured', 'trainings')
        rows = [(differing(n.arch, self.reference), f'{n.cost:.5g}', *n.cells()) for n in self.networks]
        return aligned([head, *rows])


@dataclass(frozen=True)
class Decision:
    """Content of ``decision.json``.

    Args:
        type: How it was decided: one of `TYPES`.
        score: What scores and leads are: ``'probability'`` under softmax(alpha), or ``'loss'``, differences of the
            super-network's loss on held-out images with the limited cost at its shadow price.
        arch: The network that was chosen.
        metric: What is limited.
        costs: Of the chosen network by metric.
        limit: Its limit.
        layers: The searched layers.
        networks: Networks that were compared as wholes, the best first; none of ``'argmax'``.
        reference: The network that all are compared with.
        better: Probability that the chosen network is better than its `rival`; ``None`` where nothing says, or where it
            is the rival.
        why: A sentence about what decided.
        notes: What it took: ``losses`` that were computed, ``seconds``, in the last go.
        host: What was decided of the host, where that is searched too; costs are whole detectors' then.
        adapted: What brief adaptations decided, where networks were adapted.
    """

    type: str
    score: str
    arch: ArchSpec
    metric: str
    costs: Mapping[str, float]
    limit: Limit
    layers: tuple[LayerChoice, ...]
    networks: tuple[Compared, ...] = ()
    reference: ArchSpec | None = None
    better: float | None = None
    why: str = ''
    notes: Mapping[str, float] = field(default_factory=dict)
    host: HostDecision | None = None
    adapted: Adapted | None = None

    @property
    def certainty(self) -> float:
        """Mean certainty over the layers: 0.5 is a coin's."""
        return math.fsum(layer.certainty for layer in self.layers) / max(1, len(self.layers))

    @property
    def decided(self) -> int:
        """Layers that are decided."""
        return sum(layer.certainty >= SURE for layer in self.layers)

    @property
    def beats(self) -> float | None:
        """`better`, and nothing where the rival was kept: files of earlier versions have a coin's 0.5 there."""
        return None if self.arch == self.rival else self.better

    @property
    def rival(self) -> ArchSpec | None:
        """The network that the chosen one had to beat: the reference; where that costs too much, what losses chose."""
        return self.reference if self.adapted is None else self.adapted.reference

    def says_better(self, rival: str) -> str:
        """In what the chosen network is better than its rival, and how likely: a loss here is no trained network's.

        Args:
            rival: What the rival is called.
        """
        how = 'in the super-network its loss is below that of' if self.adapted is None else 'adapted briefly it beats'
        return f'{how} {rival} with a probability of {whole_percent(self.beats or 0.0)}'

    def describe(self) -> str:
        """The decision in words."""
        costs = ', '.join(show(metric, cost) for metric, cost in self.costs.items())
        mean = whole_percent(self.certainty)
        sure = f'{self.decided} of {len(self.layers)} layers decided with {SURE:.0%} certainty, mean {mean}'
        rival = 'the reference' if self.rival == self.reference else 'what losses chose'
        sure += '' if self.beats is None else f'; {self.says_better(rival)}'
        took = ''
        if {'losses', 'seconds'} <= set(self.notes):
            trained = f' and {self.notes["trainings"]:.0f} brief adaptations' if self.notes.get('trainings') else ''
            took = f'; {self.notes["losses"]:.0f} losses{trained} in {self.notes["seconds"]:.0f} s'
        why = f'. {self.why}' if self.why else ''
        host = '' if self.host is None else f', neck and head included; {self.host.describe()}'
        return f'chosen by {self.type}: {self.arch.format("fna")}: {costs}{host}; {sure}{took}{why}'

    def table(self) -> str:
        """The layers as aligned text, which Markdown reads as a table."""
        more = [part.table() for part in (self.host, self.adapted) if part is not None]
        return '\n'.join([_layer_table(self.layers), *more])

    def format(self) -> str:
        """As JSON text; `parse` reads it back."""
        content = asdict(self)
        content['arch'] = self.arch.format('fna')
        content['reference'] = None if self.reference is None else self.reference.format('fna')
        content['limit'] = self.limit._asdict()
        for row, each in zip(content['networks'], self.networks, strict=True):
            row['arch'] = each.arch.format('fna')
        content['certainty'] = self.certainty
        if self.adapted is not None:
            content['adapted']['reference'] = self.adapted.reference.format('fna')
            for row, each in zip(content['adapted']['networks'], self.adapted.networks, strict=True):
                row['arch'] = each.arch.format('fna')
        for name in ('host', 'adapted'):
            if content[name] is None:
                del content[name]  # files of a search without it are as they were
        return json.dumps(content, indent=1) + '\n'

    @classmethod
    def parse(cls, source: str | Path | Mapping[str, Any]) -> 'Decision':
        """Reads a ``decision.json``, the work dir that holds it, or its content.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not of this form.
        """
        if isinstance(source, Mapping):
            return _parse(source, 'decision')
        file = find_file(source, 'decision', 'the end of a search')
        return _parse(read_object(file), str(file))


def differing(arch: ArchSpec, reference: ArchSpec) -> str:
    """The stages of a network, counted from 0, that are not as those of another one: their layers."""
    pairs = enumerate(zip(arch.stages, reference.stages, strict=True))
    return '; '.join(f'{number}: {" ".join(one.layers)}' for number, (one, other) in pairs if one != other)


def _layer_table(layers: Sequence[LayerChoice], name: str = 'layer') -> str:
    head = (name, 'chosen', 'runner-up', 'lead', 'certainty')
    rows = [
        (
            each.layer,
            each.chosen,
            each.runner_up,
            f'{each.lead:+.4f}' + ('' if each.error is None else f' ± {each.error:.4f}'),
            whole_percent(each.certainty),
        )
        for each in layers
    ]
    return aligned([head, *rows])


def whole_percent(probability: float) -> str:
    """A probability in whole percent, rounded down: 95% is said of what is at least so, 100% of what is certain."""
    return f'{math.floor(100 * probability + 1e-9)}%'  # 0.29 is 28.999… hundredths


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table that also reads as plain text; the first row is the head."""
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    lines = [
        '| ' + ' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + ' |' for row in rows
    ]
    return '\n'.join([lines[0], '|' + '|'.join('-' * (width + 2) for width in widths) + '|', *lines[1:]])


def normal(z: float) -> float:
    """Probability that a standard normal variable is below `z`."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _parse(content: Mapping[str, Any], where: str) -> Decision:
    kind, score, metric = (take(content, name, str, where) for name in ('type', 'score', 'metric'))
    for name, value, allowed in (
        ('type', kind, TYPES),
        ('score', score, ('probability', 'loss')),
        ('metric', metric, tuple(METRICS)),
    ):
        if value not in allowed:
            raise ValueError(f'{where}: {name} must be one of {allowed}, got {value!r}')
    reference, better, costs = content.get('reference'), content.get('better'), _numbers(content, 'costs', where)
    foreign = sorted(set(costs) - set(METRICS))
    if foreign:
        raise ValueError(f'{where}: costs must be by metric, {tuple(METRICS)}, got {foreign}')
    if reference is not None:
        reference = call_at(f'{where}: reference', ArchSpec.parse, take(content, 'reference', str, where))
    return Decision(
        type=kind,
        score=score,
        arch=call_at(f'{where}: arch', ArchSpec.parse, take(content, 'arch', str, where)),
        metric=metric,
        costs=costs,
        limit=Limit.parse(take(content, 'limit', dict, where), f'{where}: limit'),
        layers=tuple(
            _layer(row, f'{where}: layers {i}')
            for i, row in enumerate(check_list_of(take(content, 'layers', list, where), dict, f'{where}: layers'))
        ),
        networks=tuple(
            _compared(row, f'{where}: networks {i}')
            for i, row in enumerate(check_list_of(take(content, 'networks', list, where), dict, f'{where}: networks'))
        ),
        reference=reference,
        better=None if better is None else _share(content, 'better', where),
        why=take(content, 'why', str, where),
        notes=_numbers(content, 'notes', where),
        host=None if content.get('host') is None else _host(take(content, 'host', dict, where), f'{where}: host'),
        adapted=_adapted(take(content, 'adapted', dict, where), f'{where}: adapted')
        if content.get('adapted')
        else None,
    )


def _adapted(row: Mapping[str, Any], where: str) -> Adapted:
    return Adapted(
        metric=take(row, 'metric', str, where),
        share=_share(row, 'share', where),
        reference=call_at(f'{where}: reference', ArchSpec.parse, take(row, 'reference', str, where)),
        networks=tuple(
            _compared(each, f'{where}: networks {i}') for i, each in enumerate(take_list(row, 'networks', dict, where))
        ),
        noise=None if row.get('noise') is None else take(row, 'noise', float, where),
    )


def _host(row: Mapping[str, Any], where: str) -> HostDecision:
    choice, own, metric = (take(row, name, str, where) for name in ('choice', 'own', 'metric'))
    for text in (choice, own):
        call_at(where, HostChoice.parse, text)
    parts = check_list_of(take(row, 'parts', list, where), dict, f'{where}: parts')
    compared = check_list_of(take(row, 'compared', list, where), dict, f'{where}: compared')
    if not compared:
        raise ValueError(f'{where}: compared must hold at least one detector, got none')
    names = ('cost', 'expected', 'error', 'measured')
    return HostDecision(
        choice, own, metric,
        tuple(_layer(each, f'{where}: parts {i}') for i, each in enumerate(parts)),
        tuple(
            ComparedHost(take(each, 'choice', str, where), *(take(each, name, float, where) for name in names))
            for each in compared
        ),
    )  # fmt: skip


def _layer(row: Mapping[str, Any], where: str) -> LayerChoice:
    layer, chosen, runner_up = (take(row, name, str, where) for name in ('layer', 'chosen', 'runner_up'))
    scores = _numbers(row, 'scores', where)
    missing = [token for token in (chosen, runner_up) if token not in scores]
    if missing:
        raise ValueError(f'{where}: scores must have {missing[0]!r}, got {[*scores]}')
    error = row.get('error')
    return LayerChoice(
        layer=layer,
        chosen=chosen,
        runner_up=runner_up,
        lead=take(row, 'lead', float, where),
        error=None if error is None else check_kind(error, float, f'{where}: error'),
        certainty=_share(row, 'certainty', where),
        scores=scores,
    )


def _compared(row: Mapping[str, Any], where: str) -> Compared:
    measured = row.get('measured')
    return Compared(
        arch=call_at(f'{where}: arch', ArchSpec.parse, take(row, 'arch', str, where)),
        cost=take(row, 'cost', float, where),
        expected=take(row, 'expected', float, where),
        error=take(row, 'error', float, where),
        measured=None if measured is None else check_kind(measured, float, f'{where}: measured'),
        batches=take(row, 'batches', int, where),
    )


def _numbers(holder: Mapping[str, Any], name: str, where: str) -> dict[str, float]:
    given = take(holder, name, dict, where)
    return {key: check_kind(value, float, f'{where}: {name}: {key}') for key, value in given.items()}


def _share(holder: Mapping[str, Any], name: str, where: str) -> float:
    value: float = take(holder, name, float, where)
    if not 0 <= value <= 1:
        raise ValueError(f'{where}: {name} must be a probability, got {value}')
    return value
