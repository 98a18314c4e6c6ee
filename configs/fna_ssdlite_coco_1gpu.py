# FNA inside SSDLite on COCO with one GPU: an update gathers the gradients of 8 batches, one after the other. In the
# search all of them train one path, as the batches of 8 GPUs do.
# Paper: Fang et al., ICLR 2020.
#
#   python tools/train.py configs/fna_ssdlite_coco_1gpu.py
#
# Cost, published for search and adaptation: 21.6 GPU-days. Expected as fna_ssdlite_coco.py; the adaptation's batch
# norms take their statistics from 64 images instead of 512. Measured here on COCO train2017: not yet.
_base_ = './fna_ssdlite_coco.py'

accumulate = 8
gathered = dict(accumulative_counts=accumulate)
# a path per 'iteration' would train up to 8 at once
optim_wrapper = dict(weights=gathered, arch=gathered, path_per='update')
# warm-up counts iterations; an update now takes 8 of them
warm_up = dict(_base_.warm_up, end=500 * accumulate)
param_scheduler = [warm_up, *_base_.param_scheduler[1:]]
auto_scale_lr = dict(enable=False)  # the learning rate is already that of the accumulated batch
alone = dict(norm_cfg=dict(type='BN'))
derived = dict(
    model=dict(backbone=alone, neck=alone, bbox_head=alone),
    optim_wrapper=gathered,
    param_scheduler=[warm_up, *_base_.derived.param_scheduler[1:]],
    auto_scale_lr=dict(enable=False),
    # an epoch ends between two updates: the gradients gathered by then are kept for a resumed run
    custom_hooks=[*_base_.derived.custom_hooks, dict(type='mmnas_ext.GatherHook')],
)
