# FNA inside DeepLabv3 on Cityscapes with one GPU: an update gathers the gradients of 4 batches, one after the other. In
# the search all of them train one path, as the batches of 4 GPUs do.
# Paper: Fang et al., ICLR 2020.
#
#   python tools/train.py configs/fna_deeplabv3_cityscapes_1gpu.py
#
# Cost, published for search and adaptation: 35.8 GPU-hours. Expected as fna_deeplabv3_cityscapes.py; the batch
# norms of the head, and of the adaptation, take their statistics from 4 crops instead of 16. Measured here on
# Cityscapes: not yet.
_base_ = './fna_deeplabv3_cityscapes.py'

gathered = 4
model = dict(decode_head=dict(norm_cfg=dict(type='BN')))
train_cfg = dict(max_iters=3000 * gathered, arch_start=1500 * gathered)
optim_wrapper = dict(
    weights=dict(accumulative_counts=gathered),
    arch=dict(accumulative_counts=gathered),
    path_per='update',  # 'iteration' would train up to 4 paths at once
)
param_scheduler = [  # they count iterations; an update now takes 4 of them
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=300 * gathered),
    dict(type='PolyLR', power=0.9, eta_min=1e-4, by_epoch=False, begin=300 * gathered, end=3000 * gathered),
]
auto_scale_lr = dict(enable=False)  # the learning rate is already that of the accumulated batch
derived = dict(
    model=dict(backbone=dict(norm_cfg=dict(type='BN'))),
    train_cfg=dict(max_iters=100000 * gathered, val_interval=10000 * gathered),
    optim_wrapper=dict(accumulative_counts=gathered),
    param_scheduler=[
        dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=5000 * gathered),
        dict(type='PolyLR', power=0.9, eta_min=0, by_epoch=False, begin=5000 * gathered, end=100000 * gathered),
    ],
    auto_scale_lr=dict(enable=False),
)
