"""The split of one dataset in two, images without labels, and the small generated data sets."""

from mmnas_ext.datasets.checked import CheckedPipeline, DataError
from mmnas_ext.datasets.halves import DatasetView, split_halves
from mmnas_ext.datasets.images import PackImages, UnlabelledImages
from mmnas_ext.datasets.inspect import check_files, check_sample
from mmnas_ext.datasets.renewal import originals, renewed
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
    'CheckedPipeline',
    'DataError',
    'DatasetView',
    'PackImages',
    'UnlabelledImages',
    'check_files',
    'check_sample',
    'make_detection',
    'make_segmentation',
    'originals',
    'renewed',
    'split_halves',
]
