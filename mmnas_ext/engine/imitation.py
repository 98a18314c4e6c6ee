"""Distillation from the seed while a network is adapted: at first its features are held to those of the seed."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.hooks import RemovableHandle

from mmnas_ext.backbones import MBNet
from mmnas_ext.backbones.chain import is_remapped
from mmnas_ext.registry import HOOKS
from mmnas_ext.remap import Seed
from mmnas_ext.remap.initializer import RemappedInit

LOGGED = 'train/loss_imitation'
# Added to a channel's variance: a share of the mean one, so that a channel without any is no noise of its own, and what
# keeps a single pixel from a division by 0.
_FLOOR, _EPS = 1e-2, 1e-6
# what multiplies a loss before its backward pass is known of these alone
_BACKWARDS = (OptimWrapper.backward, AmpOptimWrapper.backward)


@HOOKS.register_module()
class SeedImitationHook(Hook):
    """Adds a loss to the training of an `MBNet`: how little its outputs correlate with those of the frozen seed.

    A remapped network computes other features than its seed, and few images teach them slowly; the seed's are a target
    for every pixel (hints: FitNets, 1412.6550, section 2). The loss is::

        weight * (1 - i / (until * iterations)) * mean over outputs and channels of (1 - r)

    in iteration i, and 0 from ``until * iterations`` on, so that the network ends as one of its task. r is Pearson's
    correlation, over images and pixels of the batch, of a channel of the network with the same channel of the seed (as
    between detectors: PKD, 2207.02039): half the mean square between both in standard form, 0 where they agree and 1
    where they have nothing in common. Scale and shift of a channel do not count, since the network's batch norms
    normalise by its own images and the seed's by those that it was trained with: for other images plain distances
    measure mostly that. The outputs are those at the backbone's ``out_indices``. Those of stages are linear: the margin
    that OFD (1904.01866) has for features before an activation has no place here.

    The seed stands outside of the model: not in its state dict, parameters, optimizer or checkpoints. It runs in eval
    mode without gradients, takes about the time of the network's forward pass, and is let go at the end. The loss is
    attached to the features that the model reads, so no detector or segmentor knows of it; its gradients are those of a
    summand of the model's own loss, in mixed precision and gathered over several batches too. The log has it as
    ``loss_imitation``, which ``loss`` does not contain. Models in eval mode, and a search, have no part in this.

    A run that is resumed repeats itself; one that is made longer has the schedule of the new length from there on.

    Args:
        weight: Factor of the loss in the first iteration.
        until: Share of the training, in (0, 1], at whose end the factor is 0.
        seed: What is imitated: as in `RemappedInit`, so ``dict(checkpoint=…, arch=…)``, a path, a URL or a `Seed`.
            By default the seed that the backbone's ``init_cfg`` remaps.

    Raises:
        ValueError: A number is out of its range, or `seed` lacks its checkpoint or has unknown keys.
        TypeError: `seed` is of another type.
    """

    def __init__(self, weight: float = 1.0, until: float = 0.5, seed: Any = None) -> None:
        if not _is_number(weight) or not 0 < weight < math.inf:
            raise ValueError(f'weight must be a positive number, got {weight!r:.60}')
        if not _is_number(until) or not 0 < until <= 1:
            raise ValueError(f'until must be a share of the training in (0, 1], got {until!r:.60}')
        self.weight = weight
        self.until = until
        self.start = None if seed is None else RemappedInit(seed=seed)
        self._end = 0.0
        self._now = 0.0
        self._seen: list[Tensor] = []
        self._handle: RemovableHandle | None = None

    def factor(self, iteration: int, iterations: int) -> float:
        """The factor of the loss.

        Args:
            iteration: Number of the iteration, from 0.
            iterations: Of the whole training.
        """
        return self.weight * max(0.0, 1 - iteration / (self.until * iterations))

    def check(self, model: nn.Module, wrapper: Any) -> None:
        """Raises one clear error for a training that cannot imitate; a seed that is not on this machine is not read.

        Args:
            model: The model, not wrapped.
            wrapper: Its optimizer wrapper.

        Raises:
            ValueError: The backbone is no `MBNet`, has no seed or trains nothing that is imitated, the seed's outputs
                are of other widths or strides, or the optimizer wrapper is of an unknown kind.
        """
        backbone = _find_backbone(model)
        _check_wrapper(wrapper)
        seed = self._start_of(backbone).seed_at_hand()
        if seed is not None:
            build_imitated(seed, backbone)

    def before_train(self, runner: Any) -> None:
        """Builds the seed, unless a resumed training has no more use for it."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._end = self.until * runner.max_iters
        if runner.iter >= self._end:
            return
        backbone = _find_backbone(model)
        _check_wrapper(runner.optim_wrapper)
        with torch.random.fork_rng(devices=[]):  # weights are drawn, and then replaced
            seed = build_imitated(self._start_of(backbone).read_seed(), backbone)
        seed.to(next(backbone.parameters()).device)
        hook = self._make_hook(seed, runner.optim_wrapper)
        self._handle = backbone.register_forward_hook(hook, with_kwargs=True)
        runner.logger.info(
            f'outputs {list(backbone.out_indices)} of the backbone imitate the seed {seed.arch.format("fna")}, with a '
            f'weight that falls from {self.weight:g} to 0 by iteration {math.ceil(self._end)} of {runner.max_iters}'
        )

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Sets the factor of this iteration."""
        self._now = self.factor(runner.iter, runner.max_iters)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Logs the loss, and lets go of the seed after its last iteration."""
        runner.message_hub.update_scalar(LOGGED, float(sum(self._seen)))
        self._seen.clear()
        if runner.iter + 1 >= self._end:
            self._release()

    def after_train(self, runner: Any) -> None:
        """Lets go of the seed."""
        self._release()

    def _start_of(self, backbone: MBNet) -> RemappedInit:
        """Where the seed comes from."""
        if self.start is not None:
            return self.start
        given = backbone.init_cfg
        for init in [given] if isinstance(given, dict) else given or ():
            if is_remapped(init):
                return RemappedInit(**{key: value for key, value in init.items() if key not in ('type', '_scope_')})
        raise ValueError(
            "no seed to imitate: the backbone's init_cfg remaps none (type='mmnas_ext.Remapped'); give one by "
            'seed=dict(arch=…, checkpoint=…)'
        )

    def _make_hook(self, seed: MBNet, wrapper: OptimWrapper) -> Callable[..., Any]:
        def attach(backbone: MBNet, args: Any, kwargs: Any, features: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if not backbone.training or not torch.is_grad_enabled():
                return None
            with torch.no_grad():
                wanted = seed(*args, **kwargs)
            loss = self._now * distance(features, wanted)
            self._seen.append(loss.detach())
            return _attach(loss, features, wrapper) if loss.requires_grad else None

        return attach  # a function: what copies the model copies no seed

    def _release(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def distance(features: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """How little the channels of features correlate with those of the seed: a number from 0 to 2, in float32.

    Args:
        features: Outputs of a network, ``(N, C, H, W)`` each.
        wanted: Those of the seed, of the same shapes.
    """
    pairs = zip(features, wanted, strict=True)
    return torch.stack([(_standard(ours) - _standard(theirs)).square().mean() / 2 for ours, theirs in pairs]).mean()


def _standard(feature: Tensor) -> Tensor:
    """A feature ``(N, C, H, W)`` of which each channel has mean 0 and, unless it hardly varies, deviation 1."""
    feature = feature.float()
    variance, mean = torch.var_mean(feature, (0, 2, 3), correction=0, keepdim=True)
    return (feature - mean) * torch.rsqrt(variance + _FLOOR * variance.mean() + _EPS)


def build_imitated(seed: Seed, backbone: MBNet) -> MBNet:
    """Builds a seed's own network, frozen and in eval mode, on the CPU, with the outputs of another network.

    Args:
        seed: The seed. An epsilon of its batch norms that is only assumed gives way to the backbone's, which has been
            told more (`mmnas_ext.remap.epsilon`).
        backbone: The network that is to imitate it.

    Raises:
        ValueError: An output is of another width or stride, or the seed lacks it, or nothing that is imitated is
            trained.
    """
    outputs = backbone.out_indices
    depths = [int(str(index).partition('.')[0]) for index in outputs]
    if max(depths) < backbone.frozen_stages:
        raise ValueError(
            f'frozen_stages={backbone.frozen_stages} leaves nothing to train before the outputs {list(outputs)}: '
            'an imitation has no effect'
        )
    known = backbone.bn_eps if not seed.eps_known else None
    eps = seed.bn_eps if known is None else known
    try:
        network = MBNet(
            seed.arch, outputs, backbone.output_stride, norm_cfg=dict(type='BN', eps=eps),
            channels_last=backbone.channels_last,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f'the seed cannot be imitated: {error}') from None
    sizes = (backbone.out_channels, network.out_channels, backbone.out_strides, network.out_strides)
    for index, ours, theirs, stride, goal in zip(outputs, *sizes, strict=True):
        if (ours, stride) != (theirs, goal):
            raise ValueError(
                f'output {index!r} of the network has {ours} channels at stride {stride}, that of the seed {theirs} at '
                f'stride {goal}: only equal ones can be imitated'
            )
    network.load_state_dict(dict(seed.state_dict))  # without what PyTorch notes in it, such as an epsilon
    return network.requires_grad_(False).eval()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _find_backbone(model: nn.Module) -> MBNet:
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, MBNet):
        raise ValueError(
            f'an imitation needs a model whose backbone is an MBNet, got {type(backbone).__name__} in '
            f'{type(model).__name__}'
        )
    return backbone


def _check_wrapper(wrapper: Any) -> None:
    if not isinstance(wrapper, OptimWrapper) or type(wrapper).backward not in _BACKWARDS:
        raise ValueError(
            'an imitation needs an optim_wrapper of type OptimWrapper or AmpOptimWrapper, got '
            f'{type(wrapper).__name__}, of which it is not known how it scales a loss'
        )


def _attach(loss: Tensor, features: Sequence[Tensor], wrapper: OptimWrapper) -> tuple[Tensor, ...]:
    """Features of which a backward pass that reaches any also reaches the loss, once."""
    trained = [feature for feature in features if feature.requires_grad]
    attached = iter(_Attached.apply(wrapper, loss, *trained))
    return tuple(next(attached) if feature.requires_grad else feature for feature in features)


class _Attached(Function):
    """Passes features on, and gives a loss the gradient that it would have as a summand of the model's own."""

    @staticmethod
    def forward(ctx: Any, wrapper: OptimWrapper, loss: Tensor, *features: Tensor) -> tuple[Tensor, ...]:
        """Copies the features: what a function returns as it came cannot be changed in place by what reads it."""
        ctx.wrapper = wrapper
        ctx.one = torch.ones_like(loss)
        ctx.set_materialize_grads(False)  # an output that nobody reads stays without a gradient
        return tuple(feature.clone() for feature in features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Scales as the wrapper does in `OptimWrapper.update_params`, whose backward pass this is a part of."""
        wrapper = ctx.wrapper
        scale = wrapper.scale_loss(ctx.one)
        if isinstance(wrapper, AmpOptimWrapper):
            scale = wrapper.loss_scaler.scale(scale)
        return None, scale, *gradients
