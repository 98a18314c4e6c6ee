# FNA inside RetinaNet on COCO: search a backbone, remap the seed onto it, train it there.
# Paper: Fang et al., "Fast Neural Network Adaptation via Parameter Remapping and Architecture Search", ICLR 2020.
#
#   bash tools/dist_train.sh configs/fna_retinanet_coco.py 8
#   python tools/train.py configs/fna_retinanet_coco.py          (one GPU: lr scales with the batch; see also *_1gpu.py)
#
# Cost, published: 9.2 GPU-days in all, 6 of them the search. Expected, published: 33.9 mAP at 133.03 B multiply-adds
# (seed MobileNetV2: 32.8 mAP at 133.05 B). Measured here on COCO train2017: not yet.
_base_ = './_base_/fna_retinanet.py'

# --- 1. expand: the seed, remapped onto every candidate of every layer
model = dict(
    backbone=dict(
        type='mmnas_ext.SuperNet',
        space='fna_det',
        input_size=(800, 1088),  # size that the candidates' costs are computed for
    )
)

# --- 2. search: half of train2017 trains the weights along a drawn path, the other half trains alpha
train_cfg = dict(
    _delete_=True,
    type='mmnas_ext.SearchEpochLoop',
    max_epochs=14,
    arch_start=8,  # before: only weight steps, with uniformly drawn paths
    arch_interval=1,  # afterwards: one arch step per weight step
    weight_fraction=0.5,
    split_seed=0,
    pipelines=dict(weights=dict(leave_out=['RandomFlip'])),  # only images that train alpha are flipped
)
train_dataloader = dict(batch_size=1, num_workers=2)
optim_wrapper = dict(
    _delete_=True,
    constructor='mmnas_ext.SearchOptimWrapperConstructor',
    weights=dict(
        type='OptimWrapper',
        optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4),
        clip_grad=dict(max_norm=35, norm_type=2),
    ),
    arch=dict(
        type='OptimWrapper',
        optimizer=dict(type='Adam', lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3),
        clip_grad=dict(max_norm=35, norm_type=2),
    ),
    cost=dict(weight=0.02),  # arch loss = task loss + weight * log10(expected multiply-adds in 1e9)
    selection=dict(type='argmax'),  # or 'measured': by losses on the half that trained alpha
)
param_scheduler = [  # for the weights only
    dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=14, milestones=[8, 11], gamma=0.1),
]
auto_scale_lr = dict(enable=True, base_batch_size=8)
custom_hooks = [dict(type='mmnas_ext.DeriveHook'), dict(type='mmnas_ext.SearchMonitorHook')]
find_unused_parameters = True  # a weight step uses one path

# --- 3. derive, 4. adapt: the settings that change once the network is chosen; the search fills in its `arch`
derived = dict(
    model=dict(
        backbone=dict(type='mmnas_ext.MBNet', norm_cfg=dict(type='SyncBN'))  # outputs and seed are those of the search
    ),
    train_cfg=_base_.recipe.train_cfg,
    train_dataloader=_base_.recipe.train_dataloader,
    optim_wrapper=_base_.recipe.optim_wrapper,
    param_scheduler=_base_.recipe.param_scheduler,
    auto_scale_lr=_base_.recipe.auto_scale_lr,
    custom_hooks=_base_.recipe.custom_hooks,
    find_unused_parameters=False,
)
