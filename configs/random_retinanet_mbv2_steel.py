# Random search inside RetinaNet on photographs of steel, seed MobileNetV2: random draws instead of the gradients of
# fna_retinanet_mbv2_steel.py. Method: the baseline of Fang et al., ICLR 2020, section 4.4.
#
#   python tools/train.py configs/random_retinanet_mbv2_steel.py
#
# Cost and measured metric: docs/benchmarks.md. There is no published number for this seed and data.
# Trials train on every other training image and are ranked on a quarter of the remaining ones: the validation images
# are not used to choose, as in the gradient search.
_base_ = './fna_retinanet_mbv2_steel.py'

random_search = dict(
    count=8,  # about the time of the gradient search and the choice after it
    seed=0,
    limit=dict(metric='macs', max='seed'),  # the seed's own multiply-adds, 279.4 M
    rank_by='coco/bbox_mAP',
    trial=dict(
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=2),
        train_dataloader=dict(dataset=dict(indices=list(range(0, 1440, 2)))),
        val_dataloader=dict(
            dataset=dict(
                ann_file='annotations/train.json',
                data_prefix=dict(img='train/'),
                indices=list(range(1, 1440, 8)),
                # ground truth from the images themselves: a file's other images would count as missed
                pipeline=[
                    *_base_.test_pipeline[:-1],
                    dict(_base_.test_pipeline[-1], meta_keys=(*_base_.test_pipeline[-1]['meta_keys'], 'instances')),
                ],
            )
        ),
        val_evaluator=dict(ann_file=None),
        param_scheduler=[
            dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=50),
            dict(
                type='CosineAnnealingLR', eta_min=0, by_epoch=True, begin=0, end=2, T_max=2, convert_to_iter_based=True
            ),
        ],
    ),
)
