# Random search inside DeepLabv3 on Cityscapes: draws networks that are not more expensive than the seed, remaps them,
# adapts each for a short time, and adapts the best one fully. The strong baseline of the paper, in the same space and
# with the same remapping.
# Paper: Fang et al., ICLR 2020, section 4.4.
#
#   bash tools/dist_train.sh configs/random_deeplabv3_cityscapes.py 4
#
# Cost: 20 networks for 1000 iterations are 20 K iterations, a fifth of the adaptation that follows.
# There is no published number for segmentation. Measured here on Cityscapes: not yet.
_base_ = './fna_deeplabv3_cityscapes.py'

random_search = dict(
    count=20,
    seed=0,
    limit=dict(metric='macs', max=1.9043e10),  # the seed's backbone at 1024x2048 and output stride 16
    rank_by='mIoU',
    trial=dict(
        train_cfg=dict(type='mmnas_ext.ResumableIterLoop', max_iters=1000, val_interval=1000),
        param_scheduler=[
            dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=100),
            dict(type='PolyLR', power=0.9, eta_min=0, by_epoch=False, begin=100, end=1000),
        ],
    ),
)
