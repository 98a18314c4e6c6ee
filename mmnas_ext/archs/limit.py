"""A limit on what networks may cost by a metric: read, checked against what a space reaches, and told."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mmnas_ext.archs.metrics import Metric


class Limit(NamedTuple):
    """Lowest and highest cost in the metric's own figures, both allowed themselves; ``None`` is no bound."""

    min: float | None = None
    max: float | None = None

    @classmethod
    def parse(cls, source: Any, where: str, max_name: str = 'max') -> 'Limit':
        """Reads ``None``, a number (the highest cost), ``dict(min=…, max=…)`` or a `Limit`.

        Raises:
            ValueError: It is something else, a bound is not a number, or the lowest is above the highest.
        """
        if isinstance(source, Limit):
            found = source
        elif isinstance(source, Mapping):
            unknown = [key for key in source if key not in cls._fields]
            if unknown:
                raise ValueError(f'{where} takes min and max, got {sorted(map(str, source))}')
            found = cls(**source)
        else:
            found = cls(max=source)
        for name, bound in zip(('min', max_name), found, strict=True):
            if isinstance(bound, bool) or not isinstance(bound, int | float | None) or bound != bound:
                hint = "; a share of the seed's is written '0.8 seed'" if 'seed' in str(bound) else ''
                raise ValueError(f'{where}.{name} must be a number or None, got {bound!r}{hint}')
        if found.min is not None and found.max is not None and found.min > found.max:
            raise ValueError(f'{where}.min must be at most {where}.{max_name}, got {found.min} and {found.max}')
        return found

    def plain(self) -> Any:
        """The limit as JSON has it, and as `parse` reads it: a number where there is no lowest cost."""
        return self.max if self.min is None else self._asdict()

    def check(
        self, metric: Metric, reach: tuple[float, float], where: str, max_name: str = 'max', at: str = ''
    ) -> None:
        """Raises ValueError, naming what can be reached, where no network lies within one of the bounds.

        Args:
            metric: What is limited.
            reach: Cost of the cheapest and of the most expensive network.
            where: Name of the limit, for messages.
            max_name: Name of its highest cost, for messages.
            at: What `reach` was counted at, for messages.
        """
        low, high = reach
        words, bound, end = f'.{max_name} must be at least', self.max, low
        if self.max is None or self.max >= low:
            words, bound, end = '.min must be at most', self.min, high
            if self.min is None or self.min <= high:
                return
        raise ValueError(
            f'{where}{words} {metric.show(end)}, got {metric.show(bound or 0)}: '
            f'networks of this space cost {metric.show(*reach)}{at}'
        )

    def slack(self, metric: Metric, reach: tuple[float, float], where: str, max_name: str = 'max') -> list[str]:
        """Says of each bound that all networks meet that it limits nothing, a sentence each."""
        binding = self.binding(reach)
        told = (
            (max_name, self.max if binding.max is None else None, 'more', reach[1]),
            ('min', self.min if binding.min is None else None, 'less', reach[0]),
        )
        return [
            f'{where}.{name} of {metric.show(bound)} limits nothing: '
            f'no network of this space costs {words} than {metric.show(end)}'
            for name, bound, words, end in told
            if bound is not None
        ]

    def binding(self, reach: tuple[float, float]) -> 'Limit':
        """The limit without the bounds that all networks meet."""
        low, high = reach
        return Limit(
            None if self.min is None or self.min <= low else self.min,
            None if self.max is None or self.max >= high else self.max,
        )

    def show(self, metric: Metric) -> str:
        """The limit for people, ``'at least 1 ms and at most 3 ms'``."""
        bounds = (('at least', self.min), ('at most', self.max))
        texts = [f'{words} {metric.show(bound)}' for words, bound in bounds if bound is not None]
        return ' and '.join(texts) or 'no limit'
