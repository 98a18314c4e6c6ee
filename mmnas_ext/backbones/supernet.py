"""All networks of a space in one, sharing what they share (FNA, ICLR 2020, section 3.2)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from mmnas_ext.archs import INPUT_SIZE, ArchSpec, Choices, Cost, Prices, SearchSpace, fixed_cost, places
from mmnas_ext.archs.cost import token_cost
from mmnas_ext.backbones.chain import Chain, norm_with_eps, said_eps
from mmnas_ext.ops import MixedLayer, act_layer_cfg, build_layer
from mmnas_ext.registry import MODELS

POLICIES = ('uniform', 'softmax')


@MODELS.register_module()
class SuperNet(Chain):
    """A backbone that holds every candidate of every layer and returns features like any other.

    It runs one path (`set_path`), or all candidates of each layer mixed by softmax(alpha / temperature)
    (``set_path(None)``, the initial state). What is trained when, and which path is drawn, is decided outside.

    Args:
        space: Anything that `SearchSpace.parse` reads: a zoo name, JSON, a path.
        out_indices: Outputs: stage indices, ``len(stages)`` for the head, ``'<stage>.expand'`` for the expansion inside
            a stage's first layer, mixed as the layer's output is; its candidates must have one expansion. By default as
            `MBNet`'s.
        output_stride: 8, 16 or 32. A stage that would pass it keeps its resolution and is dilated instead.
        input_size: Height and width at which candidates are priced.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages.
        norm_eval: Keep the batch norms of stem and fixed layers in eval mode.
        norm_cfg: Norm; candidates use it without running statistics. An ``eps`` in it is what is built and what the
            found network keeps; without one it is that of the seed where that is known (`mmnas_ext.remap.epsilon`),
            else the space's, else 1e-5.
        affine: Whether the candidates' norms have weights and biases. The authors' have none, and what a seed's scaled
            and shifted is lost until the candidates have learned it anew. With them a remapped candidate computes what
            the seed's layer does, up to batch statistics, which a search of few steps has no time to relearn.
        act_cfg: Activation; ``None`` takes the space's.
        with_cp: Recompute each mixed layer in the backward pass to save memory.
        channels_last: Compute in memory layout NHWC, in which depthwise convolutions are faster on a CPU;
            on a GPU it pays under autocast.
        init_cfg: MMEngine's, or ``dict(type='mmnas_ext.Remapped', seed=…)``.
        pretrained: ``None``; see `MBNet`.
        stem_act_cfg: Activation of the stem; ``None`` takes `act_cfg`. The FNA authors' search network has a ReLU
            there, ``dict(type='ReLU')``, and ReLU6 everywhere else; the networks that it finds have ReLU6.
        temperature: The mixture, and the cost expected of it, are those of softmax(alpha / temperature); paths are
            drawn and networks derived by softmax(alpha). FNA's SSDLite search has 0.9.

    Raises:
        ValueError: The space is malformed, or an argument is out of its range.
    """

    def __init__(
        self,
        space: Any,
        out_indices: Sequence[int | str] | None = None,
        output_stride: int = 32,
        input_size: tuple[int, int] = INPUT_SIZE,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict[str, Any] | None = None,
        affine: bool = False,
        act_cfg: dict[str, Any] | None = None,
        with_cp: bool = False,
        channels_last: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
        pretrained: str | None = None,
        stem_act_cfg: dict[str, Any] | None = None,
        temperature: float = 1.0,
    ) -> None:
        spec = SearchSpace.parse(space)
        check_temperature(temperature)
        eps = said_eps(norm_cfg, space, spec)
        norm_cfg = norm_with_eps(norm_cfg, spec, init_cfg)
        act_cfg = act_cfg or act_layer_cfg(spec.act)
        height, width = input_size
        stages = []
        for row in places(spec, (height, width), output_stride).stages:
            layers = nn.ModuleList()
            for place in row:
                shape: dict[str, Any] = dict(
                    in_channels=place.in_channels, channels=place.channels, stride=place.stride,
                    dilation=place.dilation, norm_cfg=norm_cfg, act_cfg=act_cfg,
                )  # fmt: skip
                if len(place.tokens) == 1:
                    layers.append(build_layer(place.tokens[0], **shape))
                    continue
                macs = [token_cost(place, token).macs for token in place.tokens]
                more: dict[str, Any] = dict(with_cp=with_cp, affine=affine, temperature=temperature)
                layers.append(MixedLayer(tokens=place.tokens, macs=macs, **more, **shape))
            stages.append(layers)
        super().__init__(
            spec, stages, out_indices, output_stride, norm_cfg, eps, act_cfg,
            frozen_stages, norm_eval, channels_last, init_cfg, pretrained, stem_act_cfg,
        )  # fmt: skip
        self.space = spec
        self.affine = affine
        self.temperature = temperature
        self.input_size = (height, width)

    def mixed_layers(self) -> dict[str, MixedLayer]:
        """The searched layers by ``'<stage>.<layer>'``, in order."""
        return {
            f'{i}.{j}': layer
            for i, stage in enumerate(self.layers())
            for j, layer in enumerate(stage)
            if isinstance(layer, MixedLayer)
        }

    def arch_parameters(self) -> list[nn.Parameter]:
        """The alphas, one vector ``(candidates,)`` per searched layer."""
        return [layer.alpha for layer in self.mixed_layers().values()]

    def sample_path(self, policy: str, generator: Generator) -> Choices:
        """Draws one candidate per layer.

        Args:
            policy: ``'uniform'``, or ``'softmax'`` for probabilities softmax(alpha).
            generator: A CPU generator: equal states draw equal paths on every rank and device.

        Raises:
            ValueError: Another policy.
        """
        if policy not in POLICIES:
            raise ValueError(f'policy must be one of {POLICIES}, got {policy!r}')
        with torch.no_grad():
            return tuple(
                tuple(_draw(layer, policy, generator) if isinstance(layer, MixedLayer) else 0 for layer in stage)
                for stage in self.layers()
            )

    def seed_path(self) -> Choices | None:
        """The path of the seed that the weights come from; ``None`` if no ``arch`` is named, or not of the space."""
        given = self.init_cfg if isinstance(self.init_cfg, list) else [self.init_cfg]
        seed = next((init['seed'] for init in given if isinstance(init, dict) and 'seed' in init), None)
        if not isinstance(seed, dict) or seed.get('arch') is None:
            return None
        space = self.space
        arch = ArchSpec.parse(seed['arch']).replace(
            bn_eps=space.bn_eps, head_channels=space.head_channels, act=space.act
        )
        return space.path(arch) if arch in space else None

    def set_path(self, path: Sequence[Sequence[int]] | None) -> None:
        """Runs one path from now on (a candidate index per layer, per stage), or with ``None`` all, mixed.

        Raises:
            ValueError: The path does not fit the space.
        """
        chosen = None if path is None else tuple(tuple(int(c) for c in choices) for choices in path)
        if chosen is not None:
            self.space.check_path(chosen)
        for i, stage in enumerate(self.layers()):
            for j, layer in enumerate(stage):
                if isinstance(layer, MixedLayer):
                    layer.choice = None if chosen is None else chosen[i][j]

    def expected_cost(self, prices: Prices | None = None) -> Tensor:
        """Expected cost of the searched layers under softmax(alpha / temperature): a double scalar.

        FNA's arch loss takes its logarithm (section 3.2, eq. 4); `fixed_cost` is what stem and fixed layers add.

        Args:
            prices: Prices of this space by any metric; by default multiply-adds.
        """
        layers = self.mixed_layers()
        if prices is None:
            return torch.stack([layer.expected_macs() for layer in layers.values()]).sum()
        priced = prices.searched()
        expected = [
            layer.expected(torch.tensor(priced[name], dtype=torch.float64, device=layer.alpha.device))
            for name, layer in layers.items()
        ]
        return torch.stack(expected).sum()

    def fixed_cost(self) -> Cost:
        """Cost of stem and fixed layers at `input_size`."""
        return fixed_cost(self.space, self.input_size, self.output_stride)

    def best_path(self) -> Choices:
        """The candidate of each layer's largest alpha, the first of equals.

        Raises:
            ValueError: An alpha is NaN or infinite.
        """
        for name, layer in self.mixed_layers().items():
            wrong = [value for value in layer.alpha.detach().tolist() if not math.isfinite(value)]
            if wrong:
                raise ValueError(
                    f'alpha of layer {name} must be finite, got {wrong[0]} in {len(wrong)} of {len(layer.tokens)} '
                    'candidates: no network can be derived from it'
                )
        return tuple(
            tuple(int(layer.alpha.argmax()) if isinstance(layer, MixedLayer) else 0 for layer in stage)
            for stage in self.layers()
        )

    def derive(self) -> ArchSpec:
        """The network of `best_path`; it keeps this network's BN epsilon.

        Raises:
            ValueError: An alpha is NaN or infinite.
        """
        return self.space.arch(self.best_path()).replace(bn_eps=self.bn_eps)


def check_temperature(temperature: Any) -> None:
    """Raises ValueError unless a mixing temperature is a positive, finite number."""
    known = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not known or not 0 < temperature < math.inf:
        raise ValueError(f'temperature must be a positive number, got {temperature!r}')


def _draw(layer: MixedLayer, policy: str, generator: Generator) -> int:
    if policy == 'uniform':
        # where the default device is another one, this would be drawn there
        return int(torch.randint(len(layer.tokens), (), generator=generator, device=generator.device))
    # on the CPU in double: softmax kernels of different devices need not agree to the last bit
    weights = layer.alpha.detach().double().cpu().softmax(0)
    return int(torch.multinomial(weights, 1, generator=generator))
