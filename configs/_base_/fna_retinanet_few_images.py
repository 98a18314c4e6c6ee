# FNA inside RetinaNet on hundreds of images: a small head, and schedules of minutes. A child sets data, size and limit.
# Method: Fang et al., ICLR 2020. What differs from the paper's recipe, and why:
#   - neck and head of width 64 with two convolutions: at full width they cost many times the backbone at these sizes
#   - AdamW, cosine and few epochs instead of SGD and steps: there are hundreds of iterations, not tens of thousands
#   - candidates' norms have scale and shift (affine): there are too few steps to learn them anew
#   - alpha, which moves little in hundreds of steps, is not trained: weights are, along paths near the seed, and losses
#     on the held-out half choose the network (docs/selection.md)
_base_ = '../fna_retinanet_coco.py'

model = dict(
    backbone=dict(affine=True, channels_last=True),
    neck=dict(out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=2),
)
train_cfg = dict(max_epochs=10, arch_start=10, pipelines=None)  # few images: both halves are flipped
optimizer = dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=1e-2)
optim_wrapper = dict(
    weights=dict(optimizer=optimizer),
    arch=dict(optimizer=dict(lr=3e-2)),  # where arch_start lets alpha be trained: hundreds of steps, not thousands
    keep_seed=0.6,  # a layer of a drawn path has the seed's candidate with this probability
    # the network is chosen by losses, and handed over with others along the axis of the cost
    selection=dict(type='measured', front=dict(networks=8)),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=1e-4, by_epoch=True, begin=0, end=10, T_max=10, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=False)
default_hooks = dict(logger=dict(interval=20))
custom_hooks = [dict(type='mmnas_ext.DeriveHook'), dict(type='mmnas_ext.SearchMonitorHook', interval=20)]
derived = dict(
    model=dict(backbone=dict(norm_cfg=dict(type='BN'))),
    train_cfg=dict(max_epochs=8, val_interval=8),
    train_dataloader=dict(num_workers=1),
    optim_wrapper=dict(optimizer=optimizer),
    auto_scale_lr=dict(enable=False),
    param_scheduler=[
        dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=50),
        dict(type='CosineAnnealingLR', eta_min=0, by_epoch=True, begin=0, end=8, T_max=8, convert_to_iter_based=True),
    ],
)
