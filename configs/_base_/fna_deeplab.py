# The common settings of FNA's DeepLab configs: segmentor, Cityscapes, and the recipe that trains a chosen network.
# FNA: Fang et al., ICLR 2020, section 4.2; head and loss: mmnas_ext/hosts/seg.py.
_base_ = './cityscapes_769.py'

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=_base_.crop_size,
        pad_val=0,
        seg_pad_val=255,  # padding is ignored like unlabelled pixels
    ),
    # what search and adaptation share; `type`, and what else it needs, is the config's
    backbone=dict(
        out_indices=(6,),
        output_stride=16,  # or 8, here alone: the head's dilations follow it
        init_cfg=dict(
            type='mmnas_ext.Remapped',
            # the seed: its architecture, and where its ImageNet weights are
            seed=dict(arch='mobilenet_v2', checkpoint='torchvision://mobilenet_v2'),
        ),
    ),
    decode_head=dict(
        type='mmnas_ext.FNASegHead',
        in_channels=320,
        in_index=-1,
        channels=256,
        dropout_ratio=0.1,
        num_classes=19,
        norm_cfg=dict(type='SyncBN'),
        align_corners=True,
        ignore_index=255,
        loss_decode=dict(type='mmnas_ext.SegCrossEntropyLoss'),  # the mean over labelled pixels only
    ),
    train_cfg=dict(),
    # windows of the crop's size that overlap by a third; the classes' probabilities are added up
    test_cfg=dict(mode='slide', crop_size=_base_.crop_size, stride=(513, 513), average='softmax'),
)

# the head learns ten times as fast, and no norm decays. MMEngine asks `norm_decay_mult` only where no custom key is in
# a parameter's name, so the head's norms have keys of their own; the longest key in a name counts.
head_norms = (
    'bottleneck.bn', 'image_pool.1.bn', 'wise_conv.bn', 'decoder.0.bn', 'decoder.1.bn',
    'aspp_modules.0.bn', 'aspp_modules.1.bn', 'aspp_modules.2.bn', 'aspp_modules.3.bn',
)  # fmt: skip
paramwise_cfg = dict(
    norm_decay_mult=0.0,
    custom_keys={
        'decode_head': dict(lr_mult=10.0),
        **{name: dict(lr_mult=10.0, decay_mult=0.0) for name in head_norms},
    },
)

# FNA's adaptation: 100 K iterations of 16 crops, here on 4 GPUs with 4 each
train_cfg = dict(type='mmnas_ext.ResumableIterLoop', max_iters=100000, val_interval=10000)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=1e-2, momentum=0.9, weight_decay=5e-4),
    clip_grad=None,
    paramwise_cfg=paramwise_cfg,
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=5000),  # from 1e-4
    dict(type='PolyLR', power=0.9, eta_min=0, by_epoch=False, begin=5000, end=100000),
]
auto_scale_lr = dict(enable=True, base_batch_size=16)
# the same settings for configs that search first and have other settings during the search
recipe = dict(
    train_cfg=train_cfg, optim_wrapper=optim_wrapper, param_scheduler=param_scheduler, auto_scale_lr=auto_scale_lr
)
