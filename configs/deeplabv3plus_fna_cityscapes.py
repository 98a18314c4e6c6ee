# FNA's DeepLabv3 network in DeepLabv3+, trained with its recipe.
# Paper: Fang et al., ICLR 2020, table 3.
#
#   bash tools/dist_train.sh configs/deeplabv3plus_fna_cityscapes.py 4
#   … --cfg-options model.backbone.output_stride=8                                               (output stride 8)
#
# Expected, published: 77.2 mIoU, 210.11 B multiply-adds at 1024x2048, 5.71 M parameters; at output stride 8 78.0 mIoU,
# 313.87 B. Measured here on Cityscapes: not yet.
_base_ = './deeplabv3_fna_cityscapes.py'

model = dict(
    backbone=dict(out_indices=(1, 6)),
    decode_head=dict(separable=False, in_index=1, c1_in_channels=24, c1_in_index=0, c1_channels=48),
)
