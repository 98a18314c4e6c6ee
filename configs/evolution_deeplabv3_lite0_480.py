# Evolution inside DeepLabv3 on few road scenes of 480x360 pixels, seed EfficientNet-Lite0.
# Method: SPOS, Guo et al., ECCV 2020 (arXiv 1904.00420). Of the super-network of fna_deeplabv3_lite0_480.py the weights
# alone are trained, and networks are bred from it.
#
#   python tools/train.py configs/evolution_deeplabv3_lite0_480.py
#
# There is no published number for this seed and data. What it does, and its settings: docs/evolution.md.
_base_ = './fna_deeplabv3_lite0_480.py'

train_cfg = dict(arch_start=160)  # the length of the search: alpha, which nothing reads, is not trained
# few steps train paths near the seed, see docs/selection.md
optim_wrapper = dict(selection=None, keep_seed=0.6)
# 96 networks instead of the authors' 1000: minutes, and few images tell no finer differences
evolution = dict(population=16, generations=6, parents=6, batches=4)
