# The network that FNA published for DeepLabv3, trained with its recipe: the seed's weights remapped onto it.
# Paper: Fang et al., ICLR 2020, table 3.
#
#   bash tools/dist_train.sh configs/deeplabv3_fna_cityscapes.py 4
#
# Cost, published: 34.4 GPU-hours. Expected, published: 76.6 mIoU, 24.17 B multiply-adds at 1024x2048 and 2.47 M
# parameters. Measured here on Cityscapes: not yet.
_base_ = './_base_/fna_deeplab.py'

model = dict(backbone=dict(type='mmnas_ext.FNA_DeepLabv3', norm_cfg=dict(type='SyncBN')))
