# Random search inside DeepLabv3 on few road scenes of 480x360 pixels, seed EfficientNet-Lite0: random draws instead of
# the gradients of fna_deeplabv3_lite0_480.py. Method: the baseline of Fang et al., ICLR 2020, section 4.4.
#
#   python tools/train.py configs/random_deeplabv3_lite0_480.py
#
# Cost and measured metric: docs/benchmarks.md. There is no published number for this seed and data.
# Trials train on every other training image and are ranked on a quarter of the remaining ones: the validation images
# are not used to choose, as in the gradient search.
_base_ = './fna_deeplabv3_lite0_480.py'

random_search = dict(
    count=9,  # about the time of the gradient search
    seed=0,
    limit=dict(metric='macs', max='seed'),  # the seed's own multiply-adds
    rank_by='mIoU',
    trial=dict(
        train_cfg=dict(type='mmnas_ext.ResumableIterLoop', max_iters=40, val_interval=40),
        train_dataloader=dict(dataset=dict(indices=list(range(0, 367, 2)))),
        val_dataloader=dict(
            dataset=dict(
                data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
                indices=list(range(1, 367, 8)),
            )
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=5),
            dict(type='PolyLR', power=0.9, eta_min=0, by_epoch=False, begin=5, end=40),
        ],
    ),
)
