# DNA-a as the backbone of a DeepLabv3 on Cityscapes, trained with the recipe of FNA's networks.
# Network: Li et al., CVPR 2020; recipe: Fang et al., ICLR 2020.
#
#   python tools/convert_checkpoint.py DNA_a.pth.tar checkpoints/dna_a.pth          (the authors' released file)
#   bash tools/dist_train.sh configs/deeplabv3_dna_a_cityscapes.py 4
#
# Cost: 100 K iterations of 16 crops. Expected, published: no number for DNA-a in a segmentor. Measured here on
# Cityscapes: not yet.
_base_ = './deeplabv3_fna_cityscapes.py'

model = dict(
    backbone=dict(type='mmnas_ext.DNA_a', init_cfg=dict(seed=dict(arch='dna_a', checkpoint='checkpoints/dna_a.pth')))
)
