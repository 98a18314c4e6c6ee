"""Backbones: any `ArchSpec` (`MBNet`), a whole `SearchSpace` (`SuperNet`), and every zoo network by name."""

from mmnas_ext.backbones import named
from mmnas_ext.backbones.lookup import backbone_spec
from mmnas_ext.backbones.mbnet import MBNet
from mmnas_ext.backbones.supernet import SuperNet

__all__ = ['MBNet', 'SuperNet', 'backbone_spec', 'named']
