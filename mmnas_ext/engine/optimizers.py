"""Optimizers that MMEngine lacks, imported when one is built."""

from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer

from mmnas_ext.registry import OPTIMIZERS


@OPTIMIZERS.register_module(name='RMSpropTF')
def rmsprop_tf(params: Iterable[Any], **kwargs: Any) -> Optimizer:
    """RMSprop as TensorFlow has it, timm's ``RMSpropTF``: EfficientNet's and DNA's recipes are written for it.

    Epsilon is added inside the square root, the averages of squares start at 1, and the momentum holds what was
    scaled by the learning rate of its time. PyTorch's RMSprop differs in all three.

    Args:
        params: Parameters or groups of them; given by MMEngine.
        kwargs: As timm's: ``lr``, ``alpha``, ``eps``, ``momentum``, ``weight_decay``, …

    Raises:
        ImportError: timm is not installed.
    """
    try:
        from timm.optim import RMSpropTF
    except ImportError:
        raise ImportError("optimizer type='mmnas_ext.RMSpropTF' is timm's: run pip install timm") from None
    optimizer: Optimizer = RMSpropTF(params, **kwargs)
    return optimizer
