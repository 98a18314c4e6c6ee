"""Measures the latency table that optim_wrapper.cost=dict(metric='latency', table=…) of a search reads.

Example: ``python tools/measure_latency.py configs/fna_retinanet_coco.py --out latency.json``
"""

import argparse
import dataclasses
from collections.abc import Sequence

from mmnas_ext.install_check import explained

with explained():
    from mmnas_ext.archs import SearchSpace
    from mmnas_ext.cli import shorten
    from mmnas_ext.runs.measure_latency import Subject, measure_to_file


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and measures what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', nargs='?', help="config of a search, whose super-network's layers are measured")
    parser.add_argument('--space', help='instead of a config: a search space, a zoo name or a .json file')
    parser.add_argument('--out', required=True, help='file to write, .json')
    parser.add_argument(
        '--input-size', type=int, nargs=2, metavar=('H', 'W'), help="image in pixels (default: the config's)"
    )
    parser.add_argument('--output-stride', type=int, choices=(8, 16, 32), help="default: the config's, or else 32")
    parser.add_argument('--channels-last', action='store_true', default=None, help='compute in memory layout NHWC')
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:<n>')
    parser.add_argument('--batch-size', type=int, default=1, help='images per batch')
    parser.add_argument('--threads', type=int, help="threads of the CPU (default: PyTorch's)")
    parser.add_argument('--repeats', type=int, default=30, help='times that each layer is timed; the median counts')
    parser.add_argument('--warmup', type=int, default=3, help='rounds over all layers before that')
    given = parser.parse_args(argv)
    if (given.config is None) == (given.space is None):
        parser.error('give either a config or --space')
    if given.space and not given.input_size:
        parser.error('--space needs --input-size H W')
    try:
        if given.config:
            subject = Subject.of_config(given.config)
        else:
            subject = Subject(SearchSpace.parse(given.space), tuple(given.input_size))
        settings = dict(
            size=given.input_size and tuple(given.input_size),
            output_stride=given.output_stride,
            channels_last=given.channels_last,
        )
        subject = dataclasses.replace(subject, **{key: value for key, value in settings.items() if value is not None})
        measure_to_file(
            given.out,
            subject,
            device=given.device,
            batch_size=given.batch_size,
            threads=given.threads,
            repeats=given.repeats,
            warmup=given.warmup,
        )
    except (ValueError, OSError) as error:
        parser.error(shorten(str(error)))


if __name__ == '__main__':
    main()
