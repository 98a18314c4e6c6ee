# FNA inside SegFormer on Cityscapes: the backbone is searched; the head of linear layers is MMSegmentation's.
# Papers: Fang et al., ICLR 2020; Xie et al., NeurIPS 2021 (arXiv 2105.15203).
#
#   bash tools/dist_train.sh configs/examples/fna_segformer_cityscapes.py 4
#
# Read by the host: strides 4, 8, 16 and 32, none dilated. Measured here on Cityscapes: not yet. There is no published
# number.
_base_ = './_base_/segmentor.py'

host = dict(config='mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py')
output_stride = 32
# the host's: AdamW, the head at ten times the rate, norms without decay, a warm-up of 1500 iterations, 160k iterations
theirs = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(_delete_=True, custom_keys=dict(head=dict(lr_mult=10.0)), norm_decay_mult=0.0),
)
optim_wrapper = dict(weights=theirs)
derived = dict(
    train_cfg=dict(max_iters=160000, val_interval=16000),
    optim_wrapper=theirs,
    param_scheduler=[
        dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
        dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=160000),
    ],
    default_hooks=dict(checkpoint=dict(interval=16000)),
)
