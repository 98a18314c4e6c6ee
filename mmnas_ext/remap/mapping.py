"""Parameter remapping: a seed's weights on another network (Fang et al., FNA, ICLR 2020, section 3.1)."""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmnas_ext.archs import ArchSpec, SearchSpace, zoo
from mmnas_ext.archs.convs import HIDDEN, INPUT
from mmnas_ext.remap import policies
from mmnas_ext.remap.checkpoints import Seed
from mmnas_ext.remap.layout import COUNTER, Layer, Shapes, conv_shapes, end_shapes, layers
from mmnas_ext.remap.report import Entry, RemapReport, action_of

_OPEN_GATE = 4.0  # sigmoid(4) = 0.98


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

    What the seed has no counterpart of at all is new: a head is drawn from ``kaiming_uniform``; an expansion where
    the seed's layer has none passes its input on (an identity); squeeze-excite where the seed has none starts almost
    open, so that the layer begins as the seed's. Draws depend on the tensors' names alone.

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
    for layer in layers(spec, affine):
        index = policies.source_layer(layer.index, seed.arch.depths[layer.stage])
        _map_layer(mapping, theirs[layer.stage, index], layer, width)
    mapping.module('', '', head, {})
    unused = tuple(name for name in seed.state_dict if name not in mapping.used)
    return mapping.state, RemapReport(tuple(mapping.entries), unused, _notes(seed.arch, spec))


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
    strides = [tuple(stage.stride for stage in spec.stages) for spec in (seed, target)]
    if strides[0] != strides[1]:
        notes.append(f"the seed's strides are {strides[0]}, the target's {strides[1]}")
    widths = [[stage.channels for stage in spec.stages] for spec in (seed, target)]
    if widths[0] != widths[1]:
        notes.append(f"the seed's stages have {widths[0]} channels, the target's {widths[1]}: cropped and padded")
    return tuple(notes)


def _map_layer(mapping: '_Mapping', source: Layer, layer: Layer, width: str) -> None:
    """Maps one layer, all its convolutions on the same hidden channels."""
    wanted = next(conv.channels for conv in layer.convs if conv.makes == HIDDEN)
    hidden = policies.hidden_channels(mapping.below(source.prefix), wanted, width)
    known = {conv.name for conv in source.convs}
    for conv in layer.convs:
        own = conv_shapes(conv, layer.norms)
        if conv.name not in known and (conv.reads, conv.makes) == (INPUT, HIDDEN):
            mapping.identity(layer.prefix, own, hidden)
            continue
        axes = {0: hidden} if conv.makes == HIDDEN else {}
        # of a depthwise convolution each channel has its own weights
        if conv.reads == HIDDEN and conv.groups == 1:
            axes[1] = hidden
        mapping.module(source.prefix, layer.prefix, own, axes)


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

    def module(self, source: str, prefix: str, shapes: Shapes, axes: dict[int, Tensor]) -> None:
        """Maps the tensors of one module.

        Args:
            source: Prefix of the seed's tensors.
            prefix: Prefix of the target's.
            shapes: The target's tensors, names without prefix.
            axes: Per axis of a weight the seed's channels to take; elsewhere the first are taken.
        """
        for name, shape in shapes.items():
            own, theirs = prefix + name, source + name
            tensor = self.seed.get(theirs)
            if tensor is None:
                self._add(own, None, self._new(own, shape))
            elif name.endswith(COUNTER):
                self._add(own, theirs, tensor.clone())
            else:
                # a vector goes with its convolution's output channels
                taken = axes if len(shape) == 4 else {0: axes[0]} if 0 in axes else {}
                self._add(own, theirs, self._fit(own, tensor, shape, taken))

    def identity(self, prefix: str, shapes: Shapes, hidden: Tensor) -> None:
        """A new expansion that passes its input on to the hidden channels which the seed's layer works on."""
        for name, shape in shapes.items():
            value = self._fill(prefix + name, shape)
            if len(shape) == 4:
                for row, channel in enumerate(hidden.tolist()):
                    if channel < shape[1]:
                        value[row] = 0
                        value[row, channel] = 1
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

    def _fit(self, name: str, tensor: Tensor, shape: tuple[int, ...], axes: dict[int, Tensor]) -> Tensor:
        """The seed's tensor brought to `shape`."""
        taken = tensor.detach()
        places = []
        for axis, (have, want) in enumerate(zip(tensor.shape, shape, strict=True)):
            if axis >= 2:
                from_seed, to_target = policies.kernel_positions(have, want, self.kernel)
                taken = taken.narrow(axis, from_seed.start, len(from_seed))
                places.append(slice(to_target.start, to_target.stop, to_target.step))
                continue
            count = min(have, want)
            first = axis not in axes
            taken = taken.narrow(axis, 0, count) if first else taken.index_select(axis, axes[axis][:count])
            places.append(slice(count))
        value = self._fill(name, shape).to(tensor.dtype)
        if len(shape) == 4:
            # around the seed's kernels there are zeros: noise is for channels that it lacks
            value[tuple(places[:2])] = 0
        value[tuple(places)] = taken
        return value

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


def _initial(name: str, shape: tuple[int, ...]) -> Tensor:
    """A norm's first values, zero weights and biases."""
    if name.endswith(COUNTER):
        return torch.zeros(shape, dtype=torch.int64)
    return torch.ones(shape) if name.endswith(('bn.weight', 'running_var')) else torch.zeros(shape)


def _kaiming(name: str, shape: tuple[int, ...]) -> Tensor:
    """``kaiming_uniform`` weights that depend on the tensor's name alone: no global state, the same on every rank."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.nn.init.kaiming_uniform_(torch.empty(shape), generator=generator)
