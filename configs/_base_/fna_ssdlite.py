# The common settings of FNA's SSDLite configs: detector, COCO at 320 pixels, and the recipe that trains a network.
# FNA: Fang et al., ICLR 2020. Features: the expansion inside the first layer of the 160-channel stage (576 channels,
# stride 16), a 1280-channel 1x1 convolution after the last stage, and four more of the neck.
_base_ = './fna_detection.py'

scale = (320, 320)
# only the mean is subtracted; expanded images are filled with it
mean = [123.675, 116.28, 103.53]
channels = [576, 1280, 512, 256, 256, 128]
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PhotoMetricDistortion',
        brightness_delta=32,
        contrast_range=(0.5, 1.5),
        saturation_range=(0.5, 1.5),
        hue_delta=18,
    ),
    dict(type='Expand', mean=mean, to_rgb=True, ratio_range=(1, 4)),
    dict(type='MinIoURandomCrop', min_ious=(0.1, 0.3, 0.5, 0.7, 0.9), min_crop_size=0.3),
    dict(type='Resize', scale=scale, keep_ratio=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=scale, keep_ratio=False),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

model = dict(
    type='SingleStageDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=mean, std=[1.0, 1.0, 1.0], bgr_to_rgb=True, pad_size_divisor=1
    ),
    # what search and adaptation share; `type`, and what else it needs, is the config's
    backbone=dict(
        out_indices=('5.expand', 7),
        init_cfg=_base_.remapped,  # the seed's weights
    ),
    neck=dict(
        type='SSDNeck',
        in_channels=channels[:2],
        out_channels=channels,
        level_strides=(2, 2, 2, 2),
        level_paddings=(1, 1, 1, 1),
        l2_norm_scale=None,
        use_depthwise=True,
        norm_cfg=dict(type='BN', eps=1e-3),
        act_cfg=dict(type='ReLU6'),
        init_cfg=dict(type='Normal', layer='Conv2d', std=0.03),
    ),
    bbox_head=dict(
        type='mmnas_ext.SSDLiteHead',
        num_classes=80,
        in_channels=channels,
        norm_cfg=dict(type='BN', eps=1e-3),
        act_cfg=dict(type='ReLU6'),
        init_cfg=dict(type='Normal', layer='Conv2d', std=0.03),
        anchor_generator=dict(
            type='mmnas_ext.SSDLiteAnchorGenerator',
            scale_major=False,
            strides=[16, 32, 64, 107, 160, 320],
            ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]],
            min_sizes=[30, 60, 114, 168, 222, 276],
            max_sizes=[60, 114, 168, 222, 276, 330],
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[0.1, 0.1, 0.2, 0.2]),
    ),
    train_cfg=dict(
        assigner=dict(
            type='MaxIoUAssigner',
            pos_iou_thr=0.5,
            neg_iou_thr=0.5,
            min_pos_iou=0.0,
            ignore_iof_thr=-1,
            gt_max_assign_all=False,
        ),
        sampler=dict(type='PseudoSampler'),
        smoothl1_beta=1.0,
        allowed_border=-1,
        pos_weight=-1,
        neg_pos_ratio=3,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=1000,
        nms=dict(type='nms', iou_threshold=0.6),
        min_bbox_size=0,
        score_thr=0.02,
        max_per_img=200,
    ),
)

# an epoch is five passes over the images
train_dataloader = dict(
    batch_sampler=None,  # all images are of one size
    # the coarsest feature is one position: a batch of a single image has no batch statistics there
    drop_last=True,
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',
        times=5,
        dataset=dict(
            type='CocoDataset',
            data_root='data/coco/',
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017/'),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
            pipeline=train_pipeline,
            backend_args=None,
        ),
    ),
)
val_dataloader = dict(batch_size=8, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# FNA's adaptation: 60 epochs on 8 GPUs with 64 images each
synced = dict(type='SyncBN', eps=1e-3)
norms = dict(neck=dict(norm_cfg=synced), bbox_head=dict(norm_cfg=synced))
recipe = dict(
    train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=60, val_interval=5),
    train_dataloader=dict(batch_size=64, num_workers=8),
    optim_wrapper=dict(
        type='OptimWrapper',
        optimizer=dict(type='RMSprop', lr=0.2, alpha=0.99, eps=1.0, momentum=0.9, weight_decay=4e-5),
    ),
    param_scheduler=[
        _base_.warm_up,
        dict(type='MultiStepLR', by_epoch=True, begin=0, end=60, milestones=[36, 50, 56], gamma=0.1),
    ],
    auto_scale_lr=dict(enable=True, base_batch_size=512),
    custom_hooks=[dict(type='mmnas_ext.ReseedHook')],
)
