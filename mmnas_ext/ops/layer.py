"""From a token to the module that computes it."""

from typing import Any

from mmnas_ext.archs import BlockSpec, LayerSpec
from mmnas_ext.ops.block import ConvBlock
from mmnas_ext.ops.mbconv import MBConv

# kinds of which more is asked than what goes in and comes out
_MODULES: dict[type[BlockSpec], type[ConvBlock]] = {LayerSpec: MBConv}


def build_layer(token: str, in_channels: int, channels: int, *shape: Any, **more: Any) -> ConvBlock:
    """Builds a layer: the one place that knows which module belongs to which kind of token.

    Args:
        token: The layer's token, ``'k3_e6'`` for instance.
        in_channels: Channels of the input.
        channels: Channels of the output.
        shape: Stride and dilation, norm and activation, as the module takes them.
        more: What else the module takes, such as ``with_cp``.

    Raises:
        ValueError: The token is unknown.
    """
    spec = BlockSpec.parse(token)
    return _MODULES.get(type(spec), ConvBlock)(in_channels, channels, spec, *shape, **more)
