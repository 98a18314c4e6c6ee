# DNA-a, fine-tuned on CIFAR-100 at 224 px from its ImageNet weights. Network: Li et al., CVPR 2020.
#
#   python tools/train.py configs/dna_a_cifar100.py          (weights: as configs/dna_a_cifar10.py says)
#
# Cost: 50 epochs of 50,000 images at 224 px on one GPU. The recipe is ours: none was released for CIFAR.
# Expected, published: no number that we could check. Measured here: not yet.
_base_ = './dna_a_cifar10.py'

data_preprocessor = dict(num_classes=100)
model = dict(data_preprocessor=data_preprocessor, head=dict(num_classes=100))
cifar = dict(type='CIFAR100', data_root='data/cifar100')
train_dataloader = dict(dataset=cifar)
val_dataloader = dict(dataset=cifar)
test_dataloader = val_dataloader
