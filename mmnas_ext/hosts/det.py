"""What detectors need of MMDetection that it does not have."""

import os
from typing import Any

from mmdet.datasets import XMLDataset

_READ = '.jpg'  # the only ending that MMDetection's dataset knows
_KINDS = (_READ, '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
ENDINGS = tuple(ending for kind in _KINDS for ending in (kind, kind.upper(), kind.title()))


class XMLImages(XMLDataset):
    """VOC's layout with images of any ending: an image has the name of its annotations, and the first ending there is.

    Args:
        kwargs: Arguments of MMDetection's ``XMLDataset``.
    """

    def parse_data_info(self, img_info: dict[str, Any]) -> Any:
        """Reads the annotations of an image.

        Args:
            img_info: Its id, and its file as MMDetection names it, relative to the data.
        """
        stem = img_info['file_name'].removesuffix(_READ)
        names = [stem + ending for ending in ENDINGS]
        found = (name for name in names if os.path.isfile(os.path.join(self.sub_data_root, name)))
        return super().parse_data_info({**img_info, 'file_name': next(found, names[0])})
