# What the examples of segmentors have in common: FNA on Cityscapes as in DeepLabv3, and MMSegmentation's 40k schedule.
# A child names its host, the output stride that it is written for, and its training where it is another.
# Method: Fang et al., ICLR 2020. What is FNA's in all of them, and not the host's:
#   - crops of 769 pixels at six scales, without changes of colour; tests by windows whose logits are averaged
#   - the search lasts 3000 iterations of 16 crops, alpha is trained in the second half
# The adaptation's rate is the host's for its 8 crops an update; both are scaled to the real batch.
_base_ = '../../fna_deeplabv3_cityscapes.py'

sgd = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4)
optim_wrapper = dict(weights=dict(optimizer=sgd, clip_grad=None, paramwise_cfg=None))
auto_scale_lr = dict(base_batch_size=8)
derived = dict(
    train_cfg=dict(max_iters=40000, val_interval=4000),
    optim_wrapper=dict(optimizer=sgd, clip_grad=None, paramwise_cfg=None),
    param_scheduler=[dict(type='PolyLR', power=0.9, eta_min=1e-4, by_epoch=False, begin=0, end=40000)],
    auto_scale_lr=dict(base_batch_size=8),
    default_hooks=dict(checkpoint=dict(interval=4000)),
)
