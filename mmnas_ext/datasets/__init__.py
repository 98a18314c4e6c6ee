"""The split of one dataset in two, images without labels, and the small generated data sets."""

from mmnas_ext.datasets.halves import DatasetView, split_halves
from mmnas_ext.datasets.images import PackImages, UnlabelledImages
from mmnas_ext.datasets.shapes import (
    DETECTION_CLASSES,
    DETECTION_METAINFO,
    SEGMENTATION_CLASSES,
    SEGMENTATION_METAINFO,
    make_detection,
    make_segmentation,
)

__all__ = [
    'DETECTION_CLASSES',
    'DETECTION_METAINFO',
    'SEGMENTATION_CLASSES',
    'SEGMENTATION_METAINFO',
    'DatasetView',
    'PackImages',
    'UnlabelledImages',
    'make_detection',
    'make_segmentation',
    'split_halves',
]
