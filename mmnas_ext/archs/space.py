"""What may be searched: per layer a list of candidates."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from mmnas_ext.archs import forms
from mmnas_ext.archs.blocks import SKIP
from mmnas_ext.archs.convs import DEFAULT_STEM
from mmnas_ext.archs.spec import ArchSpec, StageSpec, check_chain, check_network, check_widths, read_tokens

Choices = tuple[tuple[int, ...], ...]
_MAX_CANDIDATES = 4000


INPUT_SIZE = (800, 1088)
"""Height and width at which a network is counted that says none: FNA's detection images."""
OUTPUT_STRIDE = 32
"""Of a backbone that says none."""


@dataclass(frozen=True)
class SpaceStage:
    """One stage whose layers each offer candidates.

    Args:
        in_channels: Channels that enter the stage.
        channels: Channels that leave it.
        layers: Per layer its candidates' tokens; a layer of one candidate is fixed.
        stride: Stride of the first layer, 1 or 2.
    """

    in_channels: int
    channels: int
    layers: tuple[tuple[str, ...], ...]
    stride: int

    def __post_init__(self) -> None:
        check_widths(self.in_channels, self.channels, self.stride)
        if not self.layers or not all(self.layers):
            raise ValueError('a stage of a space needs at least one layer, and each layer at least one candidate')
        if SKIP in self.layers[0]:
            raise ValueError(
                f'the first layer of a stage cannot offer {SKIP!r}: '
                f'it changes channels {self.in_channels} -> {self.channels} or the stride'
            )
        kept = tuple(self._read(layer) for layer in self.layers)
        for index, layer in enumerate(kept):
            if len(set(layer)) < len(layer):
                raise ValueError(f'layer {index} names a candidate twice: {layer}')
        object.__setattr__(self, 'layers', kept)

    def _read(self, layer: tuple[str, ...]) -> tuple[str, ...]:
        canonical = iter(read_tokens([token for token in layer if token != SKIP], self.in_channels, self.channels))
        return tuple(token if token == SKIP else next(canonical) for token in layer)


@dataclass(frozen=True)
class SearchSpace:
    """All networks that pick one candidate per layer.

    A *path* is a tuple per stage of a candidate index per layer. Fields are those of `ArchSpec`.
    """

    stages: tuple[SpaceStage, ...]
    head_channels: int | None = None
    act: str = 'relu6'
    bn_eps: float | None = None
    stem: str = DEFAULT_STEM

    def __post_init__(self) -> None:
        object.__setattr__(self, 'stages', tuple(self.stages))
        check_chain(self.stages)
        check_network(self.head_channels, self.act, self.bn_eps, self.stem)
        candidates = sum(len(layer) for stage in self.stages for layer in stage.layers)
        if candidates > _MAX_CANDIDATES:
            raise ValueError(f'a search space has at most {_MAX_CANDIDATES} candidates in all, got {candidates}')

    @property
    def stem_channels(self) -> int:
        """Channels of the stem."""
        return self.stages[0].in_channels

    @property
    def size(self) -> int:
        """Number of paths (networks that differ only in where a skip stands are counted apart)."""
        return prod(len(layer) for stage in self.stages for layer in stage.layers)

    @classmethod
    def parse(cls, source: Any) -> 'SearchSpace':
        """Reads JSON text or dict, a ``.json`` path, or a zoo name.

        Raises:
            ValueError: Says what is wrong and where.
            FileNotFoundError: A ``.json`` path that does not exist.
        """
        return forms.read(cls, source)

    def format(self) -> str:
        """The space as JSON text; `parse` reads it back."""
        return forms.write(self)

    def arch(self, path: Choices) -> ArchSpec:
        """The network of a path; skips fall away.

        Raises:
            ValueError: The path does not fit the space.
        """
        self.check_path(path)
        stages = tuple(
            StageSpec(
                stage.in_channels,
                stage.channels,
                tuple(layer[choice] for layer, choice in zip(stage.layers, choices, strict=True)),
                stage.stride,
            )
            for stage, choices in zip(self.stages, path, strict=True)
        )
        return ArchSpec(stages, self.head_channels, self.act, self.bn_eps, self.stem)

    def check_path(self, path: Choices) -> None:
        """Raises ValueError unless `path` has an index in range for every layer."""
        wanted = tuple(len(stage.layers) for stage in self.stages)
        got = tuple(len(choices) for choices in path)
        if wanted != got:
            raise ValueError(f'path must have {wanted} entries per stage, got {got}')
        for i, (stage, choices) in enumerate(zip(self.stages, path, strict=True)):
            for j, (layer, choice) in enumerate(zip(stage.layers, choices, strict=True)):
                if not 0 <= choice < len(layer):
                    raise ValueError(f'path[{i}][{j}] must lie in 0..{len(layer) - 1}, got {choice}')

    def sample_path(self, rng: random.Random) -> Choices:
        """Draws a path, every candidate of a layer equally likely."""
        return tuple(tuple(rng.randrange(len(layer)) for layer in stage.layers) for stage in self.stages)

    def sample(self, seed: int, count: int) -> Iterator[ArchSpec]:
        """Yields `count` networks of uniformly drawn paths, the same for the same seed."""
        rng = random.Random(seed)
        for _ in range(count):
            yield self.arch(self.sample_path(rng))

    def path(self, arch: ArchSpec) -> Choices:
        """A path that gives `arch`; where several do, the one whose layers stand first and whose skips stand last.

        Raises:
            ValueError: No path of this space gives it.
        """
        if arch not in self:
            raise ValueError(f'arch must be a network of this space, got {arch.format("fna")}')
        return tuple(_place_layers(ours, theirs) for ours, theirs in zip(self.stages, arch.stages, strict=True))

    def __contains__(self, arch: object) -> bool:
        """Whether some path gives `arch`."""
        if not isinstance(arch, ArchSpec) or len(arch.stages) != len(self.stages):
            return False
        if any(getattr(arch, name) != getattr(self, name) for name in ('head_channels', 'act', 'bn_eps', 'stem')):
            return False
        return all(_fits(ours, theirs) for ours, theirs in zip(self.stages, arch.stages, strict=True))


def _fits(offered: SpaceStage, stage: StageSpec) -> bool:
    if (offered.in_channels, offered.channels, offered.stride) != (stage.in_channels, stage.channels, stage.stride):
        return False
    return len(stage.layers) in _reachable(offered, stage)[-1]


def _reachable(offered: SpaceStage, stage: StageSpec) -> list[set[int]]:
    """Before and after each offered layer: how many of the stage's layers may stand by then, skips anywhere."""
    reached = [{0}]
    for candidates in offered.layers:
        before = reached[-1]
        after = {n + 1 for n in before if n < len(stage.layers) and stage.layers[n] in candidates}
        reached.append(after | (before if SKIP in candidates else set()))
    return reached


def _place_layers(offered: SpaceStage, stage: StageSpec) -> tuple[int, ...]:
    """Candidate indices of a stage that fits: followed back from the end, skipping whenever that is possible."""
    reached = _reachable(offered, stage)
    count, choices = len(stage.layers), []
    for number in reversed(range(len(offered.layers))):
        candidates = offered.layers[number]
        skips = SKIP in candidates and count in reached[number]
        choices.append(candidates.index(SKIP if skips else stage.layers[count - 1]))
        count -= not skips
    return tuple(reversed(choices))
