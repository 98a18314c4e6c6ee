# FNA inside SSDLite on hundreds of images: schedules of minutes. A child sets data and limit.
# Method: Fang et al., ICLR 2020. What differs from the paper's recipe, and why:
#   - AdamW, cosine and few epochs instead of RMSprop and steps: there are hundreds of iterations, not tens of thousands
#   - the head learns ten times as fast: its outputs leave a norm, whose scale and shift have far to go, and a step of
#     AdamW is no longer than the rate
#   - candidates' norms have scale and shift (affine): there are too few steps to learn them anew
#   - alpha, which moves little in hundreds of steps, is not trained: weights are, along paths near the seed, and losses
#     on the held-out half choose the network (docs/selection.md)
#   - images are normalised as the seed's were, each is read once in an epoch, and resized and flipped alone: what is
#     drawn of colours, borders and crops takes more epochs than there are
_base_ = '../fna_ssdlite_coco.py'

model = dict(
    data_preprocessor=dict(std=[58.395, 57.12, 57.375]),
    backbone=dict(affine=True, channels_last=True),
)
train_cfg = dict(max_epochs=10, arch_start=10, arch_interval=1, pipelines=None)  # few images: both halves are flipped
optimizer = dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=1e-2)
paramwise = dict(custom_keys=dict(bbox_head=dict(lr_mult=10.0)))
optim_wrapper = dict(
    weights=dict(optimizer=optimizer, paramwise_cfg=paramwise),
    arch=dict(optimizer=dict(lr=3e-2)),  # where arch_start lets alpha be trained: hundreds of steps, not thousands
    keep_seed=0.6,  # a layer of a drawn path has the seed's candidate with this probability
    # the network is chosen by losses, and handed over with others along the axis of the cost
    selection=dict(type='measured', front=dict(networks=8)),
)
warm_up = dict(_base_.warm_up, start_factor=1e-2, end=50)
cosine = dict(type='CosineAnnealingLR', by_epoch=True, begin=0, convert_to_iter_based=True)
param_scheduler = [warm_up, dict(cosine, eta_min=1e-4, end=10, T_max=10)]
auto_scale_lr = dict(enable=False)
default_hooks = dict(logger=dict(interval=20))
custom_hooks = [dict(type='mmnas_ext.DeriveHook'), dict(type='mmnas_ext.SearchMonitorHook', interval=20)]
alone = dict(norm_cfg=dict(type='BN', eps=1e-3))
derived = dict(
    model=dict(backbone=dict(norm_cfg=dict(type='BN')), neck=alone, bbox_head=alone),
    train_cfg=dict(max_epochs=12, val_interval=12),
    train_dataloader=dict(num_workers=1),
    optim_wrapper=dict(optimizer=optimizer, paramwise_cfg=paramwise),
    auto_scale_lr=dict(enable=False),
    param_scheduler=[warm_up, dict(cosine, eta_min=0, end=12, T_max=12)],
)
