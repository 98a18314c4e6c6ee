# FNA inside FCN on Cityscapes: the backbone is searched; head and auxiliary head are MMSegmentation's.
# Papers: Fang et al., ICLR 2020; Long et al., CVPR 2015 (arXiv 1411.4038).
#
#   bash tools/dist_train.sh configs/examples/fna_fcn_cityscapes.py 4
#
# Read by the host: the last stage, dilated to stride 8, and by its auxiliary head the one before. Measured here on
# Cityscapes: not yet. There is no published number.
_base_ = './_base_/segmentor.py'

host = dict(config='mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py')
output_stride = 8
