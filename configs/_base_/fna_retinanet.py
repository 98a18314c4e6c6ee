# The common settings of FNA's RetinaNet configs: detector, COCO, and the recipe that trains a chosen network.
# FNA: Fang et al., ICLR 2020; FPN from the 32-channel stage on, extra levels computed on the backbone's last output.
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', './fna_detection.py']

model = dict(
    # what search and adaptation share; `type`, and what else it needs, is the config's
    backbone=dict(
        _delete_=True,
        out_indices=(1, 2, 4, 6),
        init_cfg=_base_.remapped,  # the seed's weights
    ),
    neck=dict(in_channels=[24, 32, 96, 320], start_level=1, add_extra_convs='on_input'),
    # the authors' box loss; MMDetection 3 has L1 here
    bbox_head=dict(loss_bbox=dict(_delete_=True, type='SmoothL1Loss', beta=0.11, loss_weight=1.0)),
)

# FNA's adaptation: 12 epochs on 8 GPUs with 4 images each
recipe = dict(
    train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1),
    train_dataloader=dict(batch_size=4, num_workers=4),
    optim_wrapper=dict(
        type='OptimWrapper',
        optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-5),
        clip_grad=dict(max_norm=35, norm_type=2),
    ),
    param_scheduler=[
        _base_.warm_up,
        dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
    ],
    auto_scale_lr=dict(enable=True, base_batch_size=32),
    custom_hooks=[dict(type='mmnas_ext.ReseedHook')],
)
