"""Whose epsilon a network's batch norms get when it starts from weights of another file.

A batch norm's epsilon changes what its weights compute, and most files do not tell it. The first of these counts:

1. what ``norm_cfg`` says: it is what was asked. Where the weights are known to have been trained with another one, a
   warning says so, since the features differ then;
2. what the weights are known to have been trained with: noted in the file by this project, given as the ``bn_eps`` of
   the seed's ``arch``, or certain for files of their kind;
3. the ``bn_eps`` of an architecture or a space that is written out, as text or in a ``.json`` file;
4. 1e-5, PyTorch's, which is assumed of all other files, also for networks of the zoo: their ``bn_eps`` is that of the
   weights that they were published with.
"""

import logging
from collections.abc import Iterator
from typing import Any

from mmengine.logging import print_log
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def apply_eps(module: nn.Module, eps: float, known: bool, source: str) -> float:
    """Gives every batch norm of a module its epsilon; returns it.

    Args:
        module: A network; of one of ours ``asked_eps`` is what its ``norm_cfg`` says, ``said_eps`` what its written
            architecture says.
        eps: Epsilon of the weights.
        known: Whether that is known, or only assumed.
        source: Where the weights come from, for the warning.
    """
    asked: float | None = getattr(module, 'asked_eps', None)
    said: float | None = getattr(module, 'said_eps', None)
    if asked is not None and known and asked != eps:
        print_log(
            f'norm_cfg asks for a batch-norm eps of {asked:g}, and {source} was trained with {eps:g}: features differ; '
            f'leave eps out of norm_cfg to take {eps:g}',
            logger='current',
            level=logging.WARNING,
        )
    if asked is not None:
        eps = asked
    elif not known and said is not None:
        eps = said
    children: Iterator[Any] = module.modules()
    for child in children:
        if isinstance(child, _BatchNorm):
            child.eps = eps
    return eps
