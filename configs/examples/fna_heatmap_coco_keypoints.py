# FNA inside a keypoint detector on COCO: the backbone is searched; the head of heatmaps is MMPose's.
# Papers: Fang et al., ICLR 2020; Xiao et al., ECCV 2018 (arXiv 1804.06208).
#
#   bash tools/dist_train.sh configs/examples/fna_heatmap_coco_keypoints.py 8
#
# Needs MMPose (docs/hosts-pose.md). Read by the host: the last stage, stride 32. Measured here on COCO: not yet. There
# is no published number.
# The adaptation is the host's; the search is FNA's for RetinaNet, with the host's optimizer for the weights.
_base_ = 'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_mobilenetv2_8xb64-210e_coco-256x192.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmnas_ext.SuperNet',
        space='fna_det',
        input_size=(256, 192),  # size that the candidates' costs are computed for
        out_indices=(6,),
        init_cfg=dict(
            type='mmnas_ext.Remapped', seed=dict(arch='mobilenet_v2', checkpoint='torchvision://mobilenet_v2')
        ),
    ),
    head=dict(in_channels=320),  # MMPose's MobileNetV2 ends with the 1x1 convolution behind it
)
train_cfg = dict(_delete_=True, type='mmnas_ext.SearchEpochLoop', max_epochs=14, arch_start=8)
adam = dict(type='Adam', lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
optim_wrapper = dict(
    _delete_=True,
    constructor='mmnas_ext.SearchOptimWrapperConstructor',
    weights=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=5e-4)),
    arch=dict(type='OptimWrapper', optimizer=adam, clip_grad=dict(max_norm=35, norm_type=2)),
    cost=dict(weight=0.02),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=14, milestones=[8, 11], gamma=0.1),
]
# workers that persist over epochs have random states that no checkpoint has, and a resumed run would differ
train_dataloader = dict(persistent_workers=False)
val_dataloader = dict(persistent_workers=False)
test_dataloader = val_dataloader
auto_scale_lr = dict(enable=True)
default_hooks = dict(checkpoint=dict(_delete_=True, type='CheckpointHook', interval=1, max_keep_ckpts=2))
custom_hooks = [dict(type='mmnas_ext.DeriveHook'), dict(type='mmnas_ext.SearchMonitorHook')]
find_unused_parameters = True  # a weight step uses one path
randomness = dict(seed=0)
derived = dict(
    model=dict(backbone=dict(type='mmnas_ext.MBNet', norm_cfg=dict(type='BN'))),
    train_cfg=dict(by_epoch=True, max_epochs=210, val_interval=10),
    optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=5e-4)),
    param_scheduler=[
        dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
        dict(type='MultiStepLR', by_epoch=True, begin=0, end=210, milestones=[170, 200], gamma=0.1),
    ],
    default_hooks=dict(checkpoint=dict(interval=10, save_best='coco/AP', rule='greater')),
    custom_hooks=[dict(type='mmnas_ext.ReseedHook'), dict(type='SyncBuffersHook')],
    find_unused_parameters=False,
)
