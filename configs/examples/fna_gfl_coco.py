# FNA inside GFL on COCO: the backbone is searched; FPN, head and focal losses of quality are MMDetection's.
# Papers: Fang et al., ICLR 2020; Li et al., NeurIPS 2020 (arXiv 2006.04388).
#
#   bash tools/dist_train.sh configs/examples/fna_gfl_coco.py 8
#
# Read by the host: strides 8, 16 and 32, of which FPN makes five. Measured here on COCO: not yet. There is no
# published number.
_base_ = './_base_/detector.py'

host = dict(config='mmdet::gfl/gfl_r50_fpn_1x_coco.py')
