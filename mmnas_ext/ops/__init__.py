"""Torch layers that the networks are made of."""

from mmnas_ext.ops.block import ConvBlock
from mmnas_ext.ops.choice import ChoiceLayer, candidate_key
from mmnas_ext.ops.convs import SqueezeExcite, act_layer_cfg, build_conv, build_stem
from mmnas_ext.ops.dilated import DilatedDepthwiseConv2d
from mmnas_ext.ops.layer import build_layer
from mmnas_ext.ops.mbconv import MBConv
from mmnas_ext.ops.mixed import MixedLayer

__all__ = [
    'ChoiceLayer',
    'ConvBlock',
    'DilatedDepthwiseConv2d',
    'MBConv',
    'MixedLayer',
    'SqueezeExcite',
    'act_layer_cfg',
    'build_conv',
    'build_layer',
    'build_stem',
    'candidate_key',
]
