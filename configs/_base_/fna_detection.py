# What FNA's detectors have in common: COCO, the seed, how a search trains alpha, and what is kept of a run.
# FNA: Fang et al., ICLR 2020.
_base_ = [
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]

# the seed: its architecture, and where its ImageNet weights are
remapped = dict(type='mmnas_ext.Remapped', seed=dict(arch='mobilenet_v2', checkpoint='torchvision://mobilenet_v2'))
# what trains alpha in a search
alphas = dict(
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3),
    clip_grad=dict(max_norm=35, norm_type=2),
)
warm_up = dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=500)

# workers that persist over epochs have random states that no checkpoint has, and a resumed run would differ
train_dataloader = dict(persistent_workers=False)
# two: the previous one is complete if a run is killed while it writes
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(vis_backends=vis_backends)
randomness = dict(seed=0)
