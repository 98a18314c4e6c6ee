# FNA inside FCOS on COCO: the backbone is searched; FPN and the head without anchors are MMDetection's.
# Papers: Fang et al., ICLR 2020; Tian et al., ICCV 2019 (arXiv 1904.01355).
#
#   bash tools/dist_train.sh configs/examples/fna_fcos_coco.py 8
#
# Read by the host: strides 8, 16 and 32, of which FPN makes five. Measured here on COCO: not yet. There is no
# published number.
_base_ = './_base_/detector.py'

host = dict(config='mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py')
# the host's: biases at twice the rate without decay, clipped gradients, a constant warm-up. Its images are those of
# Caffe's ResNet; ours are normalised as the seed's.
optimized = dict(
    paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0),
    clip_grad=dict(_delete_=True, max_norm=35, norm_type=2),
)
constant = dict(type='ConstantLR', factor=1 / 3, by_epoch=False, begin=0, end=500)
optim_wrapper = dict(weights=optimized)
derived = dict(optim_wrapper=optimized, param_scheduler=[constant, _base_.derived.param_scheduler[1]])
