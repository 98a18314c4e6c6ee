# FNA inside DeepLabv3+ on Cityscapes: DeepLabv3's search, with a decoder that reads the 24-channel stage as well.
# Paper: Fang et al., ICLR 2020, table 3.
#
#   bash tools/dist_train.sh configs/fna_deeplabv3plus_cityscapes.py 4
#   … --cfg-options model.backbone.output_stride=8       (output stride 8, in search and adaptation)
#
# Expected, published: 77.2 mIoU at 210.11 B multiply-adds, 5.71 M parameters; at output stride 8 78.0 mIoU, 313.87 B.
# The published numbers are those of ordinary, not separable branches: see docs/design.md. MMSegmentation's own head:
# decode_head=dict(_delete_=True, type='DepthwiseSeparableASPPHead', …). Measured here on Cityscapes: not yet.
_base_ = './fna_deeplabv3_cityscapes.py'

model = dict(
    backbone=dict(out_indices=(1, 6)),
    decode_head=dict(separable=False, in_index=1, c1_in_channels=24, c1_in_index=0, c1_channels=48),
)
