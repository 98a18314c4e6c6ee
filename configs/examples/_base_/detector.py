# What the examples of detectors have in common: FNA on COCO as in RetinaNet, and MMDetection's 1x schedule.
# A child names its host, and the host's optimizer where it is another than that of most, SGD with a rate of 0.01.
# Method: Fang et al., ICLR 2020. What is FNA's in all of them, and not the host's:
#   - the backbone is trained as a whole, with its norms: MMDetection freezes ResNet's first stage and all statistics
#   - the search lasts 14 epochs of half of the images, alpha is trained from the eighth on
# Rates are the host's, for 16 images an update; they are scaled to the real batch.
_base_ = '../../fna_retinanet_coco.py'

val_dataloader = dict(persistent_workers=False)
test_dataloader = val_dataloader
sgd = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)
optim_wrapper = dict(weights=dict(optimizer=sgd, clip_grad=None))
auto_scale_lr = dict(base_batch_size=16)
derived = dict(
    optim_wrapper=dict(optimizer=sgd, clip_grad=None),
    param_scheduler=[
        dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
        dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
    ],
    auto_scale_lr=dict(base_batch_size=16),
)
