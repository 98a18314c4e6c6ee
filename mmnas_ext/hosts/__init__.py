"""Heads, losses, anchors and datasets that the methods need inside a host, which is imported when one is built.

So a detection run never imports MMSegmentation and does not need it installed.
"""

from typing import Any

from mmnas_ext.install_check import require_mm
from mmnas_ext.registry import DATASETS, MODELS, TASK_UTILS


@MODELS.register_module(name='FNASegHead')
def _build_seg_head(**kwargs: Any) -> Any:
    """Builds `mmnas_ext.hosts.seg.FNASegHead`."""
    require_mm('mmseg')
    from mmnas_ext.hosts.seg import FNASegHead

    return FNASegHead(**kwargs)


@MODELS.register_module(name='LRASPPHead')
def _build_lraspp_head(**kwargs: Any) -> Any:
    """Builds `mmnas_ext.hosts.lraspp.LRASPPHead`."""
    require_mm('mmseg')
    from mmnas_ext.hosts.lraspp import LRASPPHead

    return LRASPPHead(**kwargs)


@MODELS.register_module(name='SegCrossEntropyLoss')
def _build_seg_loss(**kwargs: Any) -> Any:
    """Builds `mmnas_ext.hosts.seg.SegCrossEntropyLoss`."""
    require_mm('mmseg')
    from mmnas_ext.hosts.seg import SegCrossEntropyLoss

    return SegCrossEntropyLoss(**kwargs)


@MODELS.register_module(name='DropoutClsHead')
def _build_cls_head(**kwargs: Any) -> Any:
    """Builds `mmnas_ext.hosts.cls.DropoutClsHead`."""
    require_mm('mmpretrain')
    from mmnas_ext.hosts.cls import DropoutClsHead

    return DropoutClsHead(**kwargs)


@MODELS.register_module(name='SSDHead')
def _build_ssd_head(**kwargs: Any) -> Any:
    """Builds `mmnas_ext.hosts.ssd.SSDHead`."""
    require_mm('mmdet')
    from mmnas_ext.hosts.ssd import SSDHead

    return SSDHead(**kwargs)


@MODELS.register_module(name='SSDLiteHead')
def _build_ssdlite_head(**kwargs: Any) -> Any:
    """Builds `mmnas_ext.hosts.ssd.SSDLiteHead`."""
    require_mm('mmdet')
    from mmnas_ext.hosts.ssd import SSDLiteHead

    return SSDLiteHead(**kwargs)


@TASK_UTILS.register_module(name='SSDLiteAnchorGenerator')
def _build_ssdlite_anchors(**kwargs: Any) -> Any:
    """Builds `mmnas_ext.hosts.ssd.SSDLiteAnchorGenerator`."""
    require_mm('mmdet')
    from mmnas_ext.hosts.ssd import SSDLiteAnchorGenerator

    return SSDLiteAnchorGenerator(**kwargs)


@DATASETS.register_module(name='XMLImages')
def _build_xml_images(**kwargs: Any) -> Any:
    """Builds `mmnas_ext.hosts.det.XMLImages`."""
    require_mm('mmdet')
    from mmnas_ext.hosts.det import XMLImages

    return XMLImages(**kwargs)
