# The seed, MobileNetV2, trained with the recipe of the network found from it: the other side of every comparison.
# Paper: Fang et al., ICLR 2020, table 3.
#
#   bash tools/dist_train.sh configs/deeplabv3_mbv2_cityscapes.py 4
#
# Expected, published: 75.5 mIoU, 24.52 B multiply-adds at 1024x2048, 2.57 M parameters.
# Measured here on Cityscapes: not yet.
_base_ = './deeplabv3_fna_cityscapes.py'

model = dict(backbone=dict(type='mmnas_ext.MobileNetV2MB'))
