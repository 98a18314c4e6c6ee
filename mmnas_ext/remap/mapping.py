"""Parameter remapping: a seed's weights on another network (Fang et al., FNA, ICLR 2020, section 3.1)."""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmnas_ext.archs import ArchSpec, Conv, SearchSpace, zoo
from mmnas_ext.archs.convs import HIDDEN, INNER, OUTPUT
from mmnas_ext.remap import policies
from mmnas_ext.remap.checkpoints import Seed
from mmnas_ext.remap.layout import COUNTER, Layer, Shapes, conv_shapes, end_shapes, layers
from mmnas_ext.remap.report import Entry, RemapReport, action_of

_OPEN_GATE = 4.0  # sigmoid(4) = 0.98

# which of the seed's channels are taken, and where they go
_Channels = tuple[Tensor, Tensor]
# the same per axis of a tensor; ``None`` takes the first
_Axes = Mapping[int, _Channels | None]


def remap(
    seed: Seed,
    target: Any,
    depth: str = 'last',
    width: str = 'first',
    kernel: str = 'center',
    noise: float = 0.0,
    affine: bool = False,
) -> tuple[dict[str, Tensor], RemapReport]:
    """Maps a seed's parameters onto a network or a super-network; the seed is left as it is.

    Layer j of a stage takes the seed's layer min(j, last) of the same stage. Of input and output channels the first
    are taken, of hidden ones those that `width` ranks highest. Channels that the seed lacks: weights 0 (plus noise),
    norms as they start (weight 1, bias 0, mean 0, variance 1). A larger kernel holds the seed's and zeros, a smaller
    one takes its centre. Onto the identical architecture this is the identity, to the bit.

    Of grouped convolutions the channels are taken group by group, as many of each; where the numbers of groups differ,
    what the target's groups see of the seed's weights is taken, and what the seed's do not see is zero.

    What the seed has no counterpart of at all is new: a head and the layers of another kind than the seed's are drawn
    from ``kaiming_uniform``; an expansion, a shortcut or a fused layer's projection where the seed's layer has none
    passes its input on (an identity); squeeze-excite where the seed has none starts almost open, so that the layer
    begins as the seed's. Draws depend on the tensors' names alone.

    Of a super-network, stem, fixed layers and the candidates' convolutions are produced; its alphas are not.

    Args:
        seed: The trained network.
        target: An `ArchSpec` or `SearchSpace`, or anything that their ``parse`` reads.
        depth: ``last``.
        width: ``first``, ``bn`` or ``l1``, see `policies.hidden_channels`.
        kernel: ``center`` or ``dilated``, see `policies.kernel_positions`.
        noise: Factor of the ``kaiming_uniform`` noise in weights of channels that the seed lacks; the authors
            advise 1e-5. Without it, a convolution that is zero on both sides of a channel never learns.
        affine: Of a super-network, map the weights and biases of its candidates' norms too (``SuperNet(affine=True)``).

    Returns:
        The target's state dict, new tensors throughout, and what was done to each.

    Raises:
        TypeError: `seed` is not a `Seed`.
        ValueError: A policy is unknown, `noise` is negative, or the networks have different numbers of stages.
    """
    if not isinstance(seed, Seed):
        raise TypeError(f'seed must be a Seed as load_seed returns it, got {type(seed).__name__}')
    policies.check(depth, width, kernel)
    if not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f'noise must be at least 0 and finite, got {noise}')
    spec = _target(target)
    if len(spec.stages) != len(seed.arch.stages):
        raise ValueError(
            f'the target has {len(spec.stages)} stages and the seed has {len(seed.arch.stages)}: stages are mapped '
            'one to one'
        )
    mapping = _Mapping(seed.state_dict, kernel, noise)
    stem, head = end_shapes(spec)
    mapping.module('', '', stem, {})
    theirs = {(layer.stage, layer.index): layer for layer in layers(seed.arch)}
    pairs = [
        (theirs[layer.stage, policies.source_layer(layer.index, seed.arch.depths[layer.stage])], layer)
        for layer in layers(spec, affine)
    ]
    for source, layer in pairs:
        _map_layer(mapping, source, layer, width)
    mapping.module('', '', head, {})
    unused = tuple(name for name in seed.state_dict if name not in mapping.used)
    idle = () if not noise or _lacks_channels(mapping.entries) else ('the seed lacks no channel: no noise anywhere',)
    notes = (*_notes(seed.arch, spec), *_layer_notes(seed.arch, spec, pairs), *idle)
    return mapping.state, RemapReport(tuple(mapping.entries), unused, notes)


def _target(target: Any) -> ArchSpec | SearchSpace:
    """Reads a target of either kind; the error is that of an architecture."""
    if isinstance(target, ArchSpec | SearchSpace):
        return target
    if isinstance(target, str) and target in zoo.spaces():
        return zoo.space(target)
    try:
        return ArchSpec.parse(target)
    except ValueError as error:
        try:
            return SearchSpace.parse(target)
        except (ValueError, TypeError):
            raise error from None


def _notes(seed: ArchSpec, target: ArchSpec | SearchSpace) -> tuple[str, ...]:
    notes = []
    if seed.act != target.act:
        notes.append(f"the seed's activation is {seed.act}, the target's {target.act}")
    if seed.stem != target.stem:
        notes.append(f"the seed's stem is {seed.stem}, the target's {target.stem}")
    strides = [tuple(stage.stride for stage in spec.stages) for spec in (seed, target)]
    if strides[0] != strides[1]:
        notes.append(f"the seed's strides are {strides[0]}, the target's {strides[1]}")
    widths = [[stage.channels for stage in spec.stages] for spec in (seed, target)]
    if widths[0] != widths[1]:
        notes.append(f"the seed's stages have {widths[0]} channels, the target's {widths[1]}: cropped and padded")
    return tuple(notes)


def _lacks_channels(entries: Sequence[Entry]) -> bool:
    """Whether a convolution of the target may have channels that the seed lacks."""
    return any(
        entry.seed_shape is None
        or any(have < want for have, want in zip(entry.seed_shape[:2], entry.shape[:2], strict=True))
        for entry in entries
        if len(entry.shape) == 4
    )


def _layer_notes(seed: ArchSpec, target: ArchSpec | SearchSpace, pairs: Sequence[tuple[Layer, Layer]]) -> Iterator[str]:
    """What layers compute otherwise than the seed's, which no tensor tells."""
    other = [layer.block.title for source, layer in pairs if type(source.block) is not type(layer.block)]
    if other:
        titles = ', '.join(f'{other.count(title)} {title}s' for title in dict.fromkeys(other))
        yield f"layers of another kind than the seed's, whose weights are new: {titles}"
    named = [(source.block.act, layer.block.act) for source, layer in pairs]
    acts = sum((one or seed.act) != (own or target.act) for one, own in named if one or own)
    if acts:
        yield f"layers with another activation than the seed's: {acts}"
    gates = sum(bool(one.block.se and own.block.se) and one.block.hard != own.block.hard for one, own in pairs)
    if gates:
        yield f"layers with another squeeze-excite than the seed's: {gates}"


def _map_layer(mapping: '_Mapping', source: Layer, layer: Layer, width: str) -> None:
    """Maps one layer, all its convolutions on the same channels inside; one of another kind is new."""
    if type(source.block) is not type(layer.block):
        for conv in layer.convs:
            mapping.new(layer.prefix, conv_shapes(conv, layer.norms))
        return
    inside = _inside(mapping.below(source.prefix), source, layer, width)
    known = {conv.name: conv for conv in source.convs}
    for conv in layer.convs:
        own, theirs = conv_shapes(conv, layer.norms), known.get(conv.name)
        if theirs is None and conv.norm:
            mapping.identity(layer.prefix, own, inside.get(conv.makes))
        elif theirs is None or (conv.makes == OUTPUT != theirs.makes):
            mapping.new(layer.prefix, own)
        else:
            axes = dict(enumerate(inside.get(what) for what in (conv.makes, conv.reads)))
            mapping.module(source.prefix, layer.prefix, own, axes, (theirs, conv))


def _inside(tensors: dict[str, Tensor], source: Layer, layer: Layer, width: str) -> dict[str, _Channels]:
    """Selects the channels inside a layer, as many of each group where both layers have the same groups."""
    found = {}
    for what in (INNER, HIDDEN):
        have, want = (next((c.channels for c in each.convs if c.makes == what), 0) for each in (source, layer))
        if have and want:
            groups = layer.block.groups if layer.block.groups == source.block.groups else 1
            taken = policies.hidden_channels(tensors, source.convs, want, width, what, groups)
            found[what] = taken, policies.channel_places(have, want, groups)
    return found


@dataclass
class _Mapping:
    """Fills a target's state dict tensor by tensor and notes what was done.

    Args:
        seed: The seed's tensors.
        kernel: Policy of kernels.
        noise: Factor of the noise.
    """

    seed: Mapping[str, Tensor]
    kernel: str
    noise: float
    state: dict[str, Tensor] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def below(self, prefix: str) -> dict[str, Tensor]:
        """The seed's tensors under a prefix, named without it."""
        return {name.removeprefix(prefix): t for name, t in self.seed.items() if name.startswith(prefix)}

    def module(
        self,
        source: str,
        prefix: str,
        shapes: Shapes,
        axes: _Axes,
        convs: tuple[Conv, Conv] | None = None,
    ) -> None:
        """Maps the tensors of one module.

        Args:
            source: Prefix of the seed's tensors.
            prefix: Prefix of the target's.
            shapes: The target's tensors, names without prefix.
            axes: Per axis of a weight the seed's channels to take and their places; elsewhere the first are taken.
            convs: The seed's convolution and the target's, where groups of channels may be.
        """
        for name, shape in shapes.items():
            own, theirs = prefix + name, source + name
            tensor = self.seed.get(theirs)
            if tensor is None:
                self._add(own, None, self._new(own, shape))
            elif name.endswith(COUNTER):
                self._add(own, theirs, tensor.clone())
            elif len(shape) == 4 and convs is not None and (convs[0].groups, convs[1].groups) != (1, 1):
                self._add(own, theirs, self._fit_groups(own, tensor, convs, axes))
            else:
                # a vector goes with its convolution's output channels
                self._add(own, theirs, self._fit(own, tensor, shape, axes))

    def new(self, prefix: str, shapes: Shapes) -> None:
        """Makes the tensors of a module that the seed has no counterpart of."""
        for name, shape in shapes.items():
            self._add(prefix + name, None, self._new(prefix + name, shape))

    def identity(self, prefix: str, shapes: Shapes, made: _Channels | None) -> None:
        """A new convolution that passes its input on: to the channels that the seed's layer works on, or to the first.

        Args:
            prefix: Prefix of its tensors.
            shapes: Its tensors, names without prefix.
            made: Which of the seed's channels its output stands for, and their places; ``None`` for the first.
        """
        for name, shape in shapes.items():
            value = self._fill(prefix + name, shape)
            if len(shape) == 4:
                channels = torch.arange(min(shape[:2])) if made is None else made[0]
                for row, channel in enumerate(channels.tolist()):
                    if channel < shape[1]:
                        value[row] = 0
                        value[row, channel, shape[2] // 2, shape[3] // 2] = 1
            self._add(prefix + name, None, value)

    def _add(self, name: str, source: str | None, value: Tensor) -> None:
        self.state[name] = value
        shape = tuple(value.shape)
        if source is None:
            self.entries.append(Entry(name, None, 'new', None, shape))
            return
        self.used.add(source)
        seed_shape = tuple(self.seed[source].shape)
        self.entries.append(Entry(name, source, action_of(seed_shape, shape), seed_shape, shape))

    def _fit(self, name: str, tensor: Tensor, shape: tuple[int, ...], axes: _Axes) -> Tensor:
        """The seed's tensor brought to `shape`."""
        value = self._fill(name, shape).to(tensor.dtype)
        taken, index = self._taken(tensor, shape, axes)
        if len(shape) == 4:
            # around the seed's kernels there are zeros: noise is for channels that it lacks
            value[index[:2]] = 0
        value[index] = taken
        return value

    def _fit_groups(self, name: str, tensor: Tensor, convs: tuple[Conv, Conv], axes: _Axes) -> Tensor:
        """The weight of a grouped convolution: as `_fit` of one without groups, which is zero between the seed's."""
        theirs, own = convs
        if theirs.groups == theirs.in_channels and own.groups == own.in_channels:
            # each channel has its own weights, so there is nothing between groups
            return self._fit(name, tensor, own.weight, {0: axes.get(0)})
        whole = tensor.new_zeros(theirs.channels, theirs.in_channels, *tensor.shape[2:])
        for rows, columns, part in zip(*_blocks(theirs), tensor.chunk(theirs.groups), strict=True):
            whole[rows, columns] = part
        shape = (own.channels, own.in_channels, own.kernel, own.kernel)
        wide, known = tensor.new_zeros(shape), torch.zeros(shape, dtype=torch.bool)
        taken, index = self._taken(whole, shape, axes)
        wide[index] = taken
        known[index[:2]] = True
        value = self._fill(name, own.weight).to(tensor.dtype)
        for rows, columns in zip(*_blocks(own), strict=True):
            value[rows] = torch.where(known[rows, columns], wide[rows, columns], value[rows])
        return value

    def _taken(self, tensor: Tensor, shape: tuple[int, ...], axes: _Axes) -> tuple[Tensor, tuple[Any, ...]]:
        """What is taken of the seed's tensor, and the index of its places in one of `shape`."""
        taken = tensor.detach()
        places: list[Any] = []
        for axis, (have, want) in enumerate(zip(tensor.shape, shape, strict=True)):
            if axis >= 2:
                from_seed, to_target = policies.kernel_positions(have, want, self.kernel)
                taken = taken.narrow(axis, from_seed.start, len(from_seed))
                places.append(slice(to_target.start, to_target.stop, to_target.step))
                continue
            chosen = axes.get(axis)
            if chosen is None:
                first = torch.arange(min(have, want))
                chosen = first, first
            taken = taken.index_select(axis, chosen[0])
            places.append(chosen[1])
        if len(places) > 1:
            places[:2] = places[0][:, None], places[1][None, :]
        return taken, tuple(places)

    def _fill(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """What channels without a counterpart hold."""
        if len(shape) == 4 and self.noise:
            return self.noise * _kaiming(name, shape)
        return _initial(name, shape)

    def _new(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor that the seed has no counterpart of."""
        if name.endswith('se.expand.bias'):
            return torch.full(shape, _OPEN_GATE)
        if len(shape) == 4 and not name.endswith('se.expand.weight'):
            return _kaiming(name, shape)
        return _initial(name, shape)


def _blocks(conv: Conv) -> tuple[list[slice], list[slice]]:
    """The output and the input channels of each group."""
    rows, columns = conv.channels // conv.groups, conv.in_channels // conv.groups
    return (
        [slice(i * rows, (i + 1) * rows) for i in range(conv.groups)],
        [slice(i * columns, (i + 1) * columns) for i in range(conv.groups)],
    )


def _initial(name: str, shape: tuple[int, ...]) -> Tensor:
    """A norm's first values, zero weights and biases."""
    if name.endswith(COUNTER):
        return torch.zeros(shape, dtype=torch.int64)
    return torch.ones(shape) if name.endswith(('bn.weight', 'running_var')) else torch.zeros(shape)


def _kaiming(name: str, shape: tuple[int, ...]) -> Tensor:
    """``kaiming_uniform`` weights that depend on the tensor's name alone: no global state, the same on every rank."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.nn.init.kaiming_uniform_(torch.empty(shape), generator=generator)
