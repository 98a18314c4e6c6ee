# The retraining of dna_imagenet_retrain.py with batches of 4096 images and lr 0.256, as published: 8 GPUs x 128, four
# batches gathered for each update. On 32 GPUs: optim_wrapper.accumulative_counts=1 custom_hooks.0.interval=1.
# DNA: Li et al., CVPR 2020.
_base_ = './dna_imagenet_retrain.py'

optim_wrapper = dict(accumulative_counts=4, optimizer=dict(lr=0.256))
auto_scale_lr = dict(base_batch_size=4096)
# the warm-up begins at 1e-4, whatever the full rate
param_scheduler = [dict(_base_.param_scheduler[0], start_factor=1e-4 / 0.256), *_base_.param_scheduler[1:]]
# MMEngine averages after each iteration: only those that update the weights are to count
custom_hooks = [
    dict(_base_.custom_hooks[0], interval=4),
    *_base_.custom_hooks[1:],
    dict(type='mmnas_ext.GatherHook'),  # an epoch ends between two updates: what was gathered goes on after a resume
]
