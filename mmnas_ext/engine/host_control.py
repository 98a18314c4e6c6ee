"""One detector as any of its host choices: smaller images, a narrower neck and head, fewer convolutions in the head.

The super-network's host is the widest. Forward hooks make a smaller one of it, so that no detector is subclassed:

- *Width*: of neck and head, the channels from w on are zero. A convolution that reads zeros computes what one does
  whose weights are cut to w channels, and what it writes beyond w is set to zero again; sums, resizing and pooling
  between them are by channel. So the masked host computes what the narrow one does.
- *Convolutions*: those from n on return what they are given.
- *Size*: after the data preprocessor, images are resized, and boxes with them.

A weight step changes of a narrow host's undrawn channels what weight decay and momentum change: their gradients are
zero, where an undrawn candidate's are none (slimmable networks, arXiv 1812.08928).
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from torch import Generator, Tensor, nn
from torch.nn import functional

from mmnas_ext.archs import HostChoice, HostChoices

_BRANCHES = ('cls_convs', 'reg_convs')


class _Setting:
    """What the hooks of one model have in common; a copy of the model has its own."""

    def __init__(self, choices: HostChoices) -> None:
        self.widest = self.choice = choices.widest


class _Resize:
    def __init__(self, setting: _Setting) -> None:
        self.setting = setting

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
        training = kwargs.get('training', args[1] if len(args) > 1 else False)
        size, full = self.setting.choice.input_size, self.setting.widest.input_size
        if not training or size == full:
            return None
        ratios = size[0] / full[0], size[1] / full[1]
        return resize_batch(output, ratios, getattr(module, 'pad_size_divisor', 1), getattr(module, 'pad_value', 0))


class _Narrow:
    def __init__(self, setting: _Setting) -> None:
        self.setting = setting

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        width, full = self.setting.choice.neck_width, self.setting.widest.neck_width
        if width is None or full is None or width == full:
            return None
        return functional.pad(output[:, :width], (0, 0, 0, 0, 0, full - width))


class _Skip:
    def __init__(self, setting: _Setting, number: int) -> None:
        self.setting, self.number = setting, number

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        convs = self.setting.choice.stacked_convs
        return args[0] if convs is not None and self.number >= convs else None


class HostControl:
    """Sets what host the detector has; on a model that has hooks already, theirs.

    Args:
        model: The detector with the widest host, wrapped or not.
        choices: What may be chosen.
    """

    def __init__(self, model: nn.Module, choices: HostChoices) -> None:
        self.choices = choices
        inner: Any = model.module if is_model_wrapper(model) else model
        hooks = inner.data_preprocessor._forward_hooks.values()
        known = next((hook.setting for hook in hooks if isinstance(hook, _Resize)), None)
        self._setting = known or _Setting(choices)
        if known is None:
            self._install(inner)
        self._setting.widest = self._setting.choice = choices.widest

    @property
    def choice(self) -> HostChoice:
        """The host that the detector has now."""
        return self._setting.choice

    def set(self, choice: HostChoice) -> None:
        """Gives the detector, from its next forward on, another host.

        Raises:
            ValueError: It is not among the choices.
        """
        self._setting.choice = self.choices.check(choice)

    def sample(self, generator: Generator) -> HostChoice:
        """Draws a choice, each option of a part alike.

        Args:
            generator: A CPU generator: equal states draw equal choices on every rank and device.
        """
        drawn = self.choices.own
        for name in self.choices.offered():
            options = self.choices.options[name]
            place = torch.randint(len(options), (), generator=generator, device=generator.device)
            drawn = drawn._replace(**{name: options[int(place)]})
        return drawn

    def _install(self, model: Any) -> None:
        setting = self._setting
        model.data_preprocessor.register_forward_hook(_Resize(setting), with_kwargs=True)
        offered = self.choices.offered()
        if 'neck_width' in offered:
            for layer in (*outer_convs(model.neck), *(each for row in branches_of(model.bbox_head) for each in row)):
                layer.register_forward_hook(_Narrow(setting))
        if 'stacked_convs' in offered:
            for row in branches_of(model.bbox_head):
                for number, layer in enumerate(row):
                    layer.register_forward_hook(_Skip(setting, number))


def branches_of(head: nn.Module) -> list[list[nn.Module]]:
    """The stacked convolutions of a head's branches; none of a head that is built otherwise."""
    found = [getattr(head, name, None) for name in _BRANCHES]
    rows = [list(row) for row in found if isinstance(row, nn.ModuleList)]
    plain = all(isinstance(getattr(layer, 'conv', None), nn.Conv2d) for row in rows for layer in row)
    return rows if len(rows) == len(_BRANCHES) and plain else []


def outer_convs(module: nn.Module) -> list[nn.Module]:
    """The convolutions inside a module, each with the norm and activation that belong to it."""
    found: list[nn.Module] = []
    for child in module.children():
        is_whole = isinstance(child, nn.Conv2d) or isinstance(getattr(child, 'conv', None), nn.Conv2d)
        found += [child] if is_whole else outer_convs(child)
    return found


def resize_batch(
    data: Mapping[str, Any], ratios: tuple[float, float], divisor: int = 1, value: float = 0
) -> dict[str, Any]:
    """A preprocessed batch of a detector with smaller images; the one given is left as it is.

    Each image is resized without its padding, bilinearly as MMCV does, and padded anew.

    Args:
        data: ``inputs`` (N, C, H, W) and ``data_samples`` with ``img_shape`` and boxes in pixels of the input.
        ratios: Of the new to the old height and width.
        divisor: Height and width of the batch become multiples of it.
        value: Of the padding.
    """
    inputs, samples = data['inputs'], [copy.deepcopy(each) for each in data['data_samples']]
    images = []
    for image, sample in zip(inputs, samples, strict=True):
        height, width = sample.img_shape[:2]
        size = max(1, round(height * ratios[0])), max(1, round(width * ratios[1]))
        content = image[None, :, :height, :width]
        images.append(functional.interpolate(content, size=size, mode='bilinear', align_corners=False)[0])
        _scale(sample, size, (size[1] / width, size[0] / height))
    shape = [-(-max(image.shape[axis] for image in images) // divisor) * divisor for axis in (1, 2)]
    found = inputs.new_full((*inputs.shape[:2], *shape), value)
    for place, (image, sample) in enumerate(zip(images, samples, strict=True)):
        found[place, :, : image.shape[1], : image.shape[2]] = image
        padded = tuple(-(-side // divisor) * divisor for side in image.shape[1:])
        sample.set_metainfo(dict(batch_input_shape=tuple(shape), pad_shape=padded))
    return {**data, 'inputs': found, 'data_samples': samples}


def _scale(sample: Any, size: tuple[int, int], factors: Sequence[float]) -> None:
    """Scales the boxes of a sample by (width, height) factors, in place."""
    across, down = factors
    known = sample.metainfo.get('scale_factor', (1.0, 1.0))
    sample.set_metainfo(dict(img_shape=size, scale_factor=(known[0] * across, known[1] * down)))
    for name in ('gt_instances', 'ignored_instances'):
        instances = sample.get(name)
        if instances is None or 'bboxes' not in instances:
            continue
        boxes = instances.bboxes
        if isinstance(boxes, Tensor):
            instances.bboxes = boxes * boxes.new_tensor([across, down, across, down])
        else:
            boxes.rescale_((across, down))
