# DNA-a as the backbone of a RetinaNet on COCO, trained with the recipe of FNA's networks.
# Network: Li et al., CVPR 2020; recipe: Fang et al., ICLR 2020.
#
#   python tools/convert_checkpoint.py DNA_a.pth.tar checkpoints/dna_a.pth          (the authors' released file)
#   bash tools/dist_train.sh configs/retinanet_dna_a_coco.py 8
#
# Cost: 12 epochs of COCO. Expected, published: no number for DNA-a in a detector. Measured here on COCO: not yet.
_base_ = './retinanet_fna_coco.py'

model = dict(
    backbone=dict(type='mmnas_ext.DNA_a', init_cfg=dict(seed=dict(arch='dna_a', checkpoint='checkpoints/dna_a.pth'))),
    neck=dict(in_channels=[24, 40, 96, 320]),
)
