# FNA inside DeepLabv3 on Cityscapes: search a backbone, remap the seed onto it, train it there.
# Paper: Fang et al., "Fast Neural Network Adaptation via Parameter Remapping and Architecture Search", ICLR 2020.
#
#   bash tools/dist_train.sh configs/fna_deeplabv3_cityscapes.py 4
#   python tools/train.py configs/fna_deeplabv3_cityscapes.py        (one GPU: see *_1gpu.py)
#
# Cost, published: 35.8 GPU-hours in all, 1.4 of them the search. Expected, published: 76.6 mIoU at 24.17 B
# multiply-adds (seed MobileNetV2: 75.5 mIoU at 24.52 B). Measured here on Cityscapes: not yet.
#
# The authors published neither the code nor the settings of this search. Ours, and why:
# - 3000 iterations of 16 crops, arch steps in the second half: an arch step computes all six candidates where a weight
#   step computes one. Meant for the published 1.4 GPU-hours; each candidate gets some 200 weight updates before.
# - SGD as in the adaptation, with a warm-up of 300 iterations: the super-network is remapped, not new.
# - both halves are augmented as in the adaptation; the authors' RetinaNet search flips only the half that trains alpha.
# - Adam for alpha at 3e-3, ten times RetinaNet's rate: a step of Adam changes alpha by about the rate, and there are
#   1500 steps here and some 40 K there. Betas, decay and clipping are RetinaNet's, as is λ.
# - no limit: cost=dict(weight=0.02, metric='macs', target=1.9043e10) would limit the backbone to its seed's cost.
_base_ = './_base_/fna_deeplab.py'

# --- 1. expand: the seed, remapped onto every candidate of every layer
model = dict(
    backbone=dict(
        type='mmnas_ext.SuperNet',
        space='fna_seg',
        input_size=(1024, 2048),  # size that the candidates' costs are computed for
    )
)

# --- 2. search: half of the images trains the weights along a drawn path, the other half trains alpha
train_cfg = dict(
    _delete_=True,
    type='mmnas_ext.SearchIterLoop',
    max_iters=3000,
    arch_start=1500,  # before: only weight steps, with uniformly drawn paths
    arch_interval=1,  # afterwards: one arch step per weight step
    weight_fraction=0.5,
    split_seed=0,
)
sgd = dict(type='SGD', lr=1e-2, momentum=0.9, weight_decay=5e-4)
adam = dict(type='Adam', lr=3e-3, betas=(0.5, 0.999), weight_decay=1e-3)
clip = dict(max_norm=35, norm_type=2)
optim_wrapper = dict(
    _delete_=True,
    constructor='mmnas_ext.SearchOptimWrapperConstructor',
    weights=dict(type='OptimWrapper', optimizer=sgd, clip_grad=clip, paramwise_cfg=_base_.paramwise_cfg),
    arch=dict(type='OptimWrapper', optimizer=adam, clip_grad=clip),
    cost=dict(weight=0.02),  # arch loss = task loss + weight * log10(expected multiply-adds in 1e9)
    selection=dict(type='argmax'),  # or 'measured': by losses on the half that trained alpha
)
param_scheduler = [  # for the weights only
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=300),
    dict(type='PolyLR', power=0.9, eta_min=1e-4, by_epoch=False, begin=300, end=3000),
]
auto_scale_lr = dict(enable=True, base_batch_size=16)
default_hooks = dict(checkpoint=dict(interval=500))
custom_hooks = [dict(type='mmnas_ext.DeriveHook'), dict(type='mmnas_ext.SearchMonitorHook', interval=20)]
find_unused_parameters = True  # a weight step uses one path

# --- 3. derive, 4. adapt: the settings that change once the network is chosen; the search fills in its `arch`
derived = dict(
    model=dict(
        # outputs, output stride and seed are those of the search
        backbone=dict(type='mmnas_ext.MBNet', norm_cfg=dict(type='SyncBN'))
    ),
    default_hooks=dict(checkpoint=dict(interval=5000)),
    custom_hooks=[],
    find_unused_parameters=False,
    **_base_.recipe,
)
