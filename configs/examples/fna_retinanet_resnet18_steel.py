# FNA inside RetinaNet on photographs of steel, seed ResNet-18: a space of basic blocks that is made from the seed.
# Method: Fang et al., ICLR 2020; FNA++ (arXiv 2006.12986) adapts ResNets. Data: that of fna_retinanet_mbv2_steel.py.
#
#   python tools/train.py configs/examples/fna_retinanet_resnet18_steel.py
#
# Another seed is a change of the line `seed` alone (docs/seeds.md, where cost and measured metric are, too).
# There is no published number for this seed and data.
_base_ = '../fna_retinanet_mbv2_steel.py'

seed = dict(arch='resnet18', checkpoint='torchvision://resnet18')
space = dict(kernels=(3, 5), widths=(0.5, 1))
