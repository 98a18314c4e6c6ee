# Evolution inside RetinaNet on photographs of steel, seed MobileNetV2: of the super-network of
# fna_retinanet_mbv2_steel.py networks within the limit are bred. Method: SPOS, arXiv 1904.00420.
#
#   python tools/train.py configs/evolution_retinanet_mbv2_steel.py
#
# There is no published number for this seed and data. What it does, and its settings: docs/evolution.md.
_base_ = './fna_retinanet_mbv2_steel.py'

optim_wrapper = dict(selection=None)
# 96 networks instead of the authors' 1000: minutes, and few images tell no finer differences
evolution = dict(population=16, generations=6, parents=6, batches=4)
