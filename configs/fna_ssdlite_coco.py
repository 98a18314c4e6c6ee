# FNA inside SSDLite on COCO: search a backbone, remap the seed onto it, train it there.
# Paper: Fang et al., "Fast Neural Network Adaptation via Parameter Remapping and Architecture Search", ICLR 2020.
#
#   bash tools/dist_train.sh configs/fna_ssdlite_coco.py 8
#   python tools/train.py configs/fna_ssdlite_coco.py          (one GPU: lr scales with the batch; see also *_1gpu.py)
#
# Cost, published: 21.6 GPU-days in all, 6.6 of them the search. Expected, published: 23.3 mAP at 0.9 B multiply-adds
# (seed MobileNetV2: 22.1 mAP at 0.8 B). Measured here on COCO train2017: not yet.
_base_ = './_base_/fna_ssdlite.py'

# --- 1. expand: the seed, remapped onto every candidate of every layer
kaiming = dict(_delete_=True, type='Kaiming', layer='Conv2d')
model = dict(
    backbone=dict(
        type='mmnas_ext.SuperNet',
        space='fna_det_ssdlite',  # one expansion in the layer that is read inside
        input_size=(320, 320),  # size that the candidates' costs are computed for
        temperature=0.9,  # of the mixture of an arch step
    ),
    neck=dict(init_cfg=kaiming),
    bbox_head=dict(init_cfg=kaiming),
)

# --- 2. search: half of train2017 trains the weights along a drawn path, the other half trains alpha
train_cfg = dict(
    _delete_=True,
    type='mmnas_ext.SearchEpochLoop',
    max_epochs=30,
    arch_start=15,  # before: only weight steps, with uniformly drawn paths
    arch_interval=5,  # afterwards: one arch step per five weight steps
    weight_fraction=0.5,
    split_seed=0,
    pipelines=dict(weights=dict(leave_out=['RandomFlip'])),  # only images that train alpha are flipped
)
train_dataloader = dict(batch_size=16, num_workers=4)
optim_wrapper = dict(
    _delete_=True,
    constructor='mmnas_ext.SearchOptimWrapperConstructor',
    weights=dict(type='OptimWrapper', optimizer=dict(_base_.recipe.optim_wrapper.optimizer, lr=0.05)),
    arch=_base_.alphas,
    cost=dict(weight=0.15),  # arch loss = task loss + weight * log10(expected multiply-adds in 1e9)
    selection=dict(type='argmax'),  # or 'measured': by losses on the half that trained alpha
)
param_scheduler = [  # for the weights only
    _base_.warm_up,
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=30, milestones=[18, 25, 28], gamma=0.1),
]
auto_scale_lr = dict(enable=True, base_batch_size=128)
custom_hooks = [dict(type='mmnas_ext.DeriveHook'), dict(type='mmnas_ext.SearchMonitorHook')]
find_unused_parameters = True  # a weight step uses one path

# --- 3. derive, 4. adapt: the settings that change once the network is chosen; the search fills in its `arch`
normal = dict(type='Normal', layer='Conv2d', std=0.03)
derived = dict(
    model=dict(
        backbone=dict(type='mmnas_ext.MBNet', norm_cfg=dict(type='SyncBN')),  # outputs and seed are those of the search
        neck=dict(_base_.norms.neck, init_cfg=normal),
        bbox_head=dict(_base_.norms.bbox_head, init_cfg=normal),
    ),
    find_unused_parameters=False,
    **_base_.recipe,
)
