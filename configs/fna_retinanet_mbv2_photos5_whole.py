# FNA inside RetinaNet on photographs of five kinds of things, the whole detector searched under one limit.
# The size of the images, the width of neck and head, and the head's stacked convolutions are chosen with the backbone.
# Method: Fang et al., ICLR 2020; the choice of the host is ours (docs/whole-detector.md). Data and recipe are those of
# fna_retinanet_mbv2_photos5.py, and so is the detector that the limit is of: 320 px, width 64, two convolutions.
#
#   python tools/train.py configs/fna_retinanet_mbv2_photos5_whole.py
#
# There is no published number for this seed and data. What it does, and its files: docs/whole-detector.md.
_base_ = './fna_retinanet_mbv2_photos5.py'

host_choices = dict(
    input_size=[(256, 256), (320, 320), (384, 384)],
    neck_width=[32, 64, 96],
    stacked_convs=[1, 2],
)
# of the whole detector with the seed in it, neck and head of this config included: 1.075 G
optim_wrapper = dict(cost=dict(target='seed'))
