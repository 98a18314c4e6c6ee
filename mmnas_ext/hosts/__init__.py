"""What the methods need inside a host: heads and losses. Each host is imported when one of its parts is built.

A detection run thus never imports MMSegmentation, and needs no such package installed.
"""

from typing import Any

from mmnas_ext.install_check import require_mm
from mmnas_ext.registry import MODELS


@MODELS.register_module(name='FNASegHead')
def _seg_head(**kwargs: Any) -> Any:
    """`mmnas_ext.hosts.seg.FNASegHead`."""
    require_mm('mmseg')
    from mmnas_ext.hosts.seg import FNASegHead

    return FNASegHead(**kwargs)


@MODELS.register_module(name='SegCrossEntropyLoss')
def _seg_loss(**kwargs: Any) -> Any:
    """`mmnas_ext.hosts.seg.SegCrossEntropyLoss`."""
    require_mm('mmseg')
    from mmnas_ext.hosts.seg import SegCrossEntropyLoss

    return SegCrossEntropyLoss(**kwargs)


@MODELS.register_module(name='DropoutClsHead')
def _cls_head(**kwargs: Any) -> Any:
    """`mmnas_ext.hosts.cls.DropoutClsHead`."""
    require_mm('mmpretrain')
    from mmnas_ext.hosts.cls import DropoutClsHead

    return DropoutClsHead(**kwargs)
