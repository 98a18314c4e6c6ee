"""``mmnas latency``."""

import argparse
import dataclasses
from typing import Any

from mmnas_ext.archs import SearchSpace
from mmnas_ext.cli.messages import shorten
from mmnas_ext.cli.options import CONFIG, Command, add_size, pick


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a measurement can be told."""
    config = parser.add_argument('config', nargs='?', help="of a search, whose super-network's layers are measured")
    config.complete = CONFIG  # type: ignore[attr-defined]
    parser.add_argument(
        '--space', help="instead of a config: a search space, a zoo name or a .json file (default: the config's)"
    )
    parser.add_argument('--out', required=True, help='file to write, .json')
    add_size(parser, "the config's", "the config's, or else 32")
    parser.add_argument('--channels-last', action='store_true', default=None, help='compute in memory layout NHWC')
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:<n>')
    parser.add_argument('--batch-size', type=int, default=1, help='images per batch')
    parser.add_argument('--threads', type=int, help="threads of the CPU (default: PyTorch's)")
    parser.add_argument('--repeats', type=int, default=30, help='times that each layer is timed; the median counts')
    parser.add_argument('--warmup', type=int, default=3, help='rounds over all layers before that')


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Measures what is asked for."""
    if (args.config is None) == (args.space is None):
        parser.error('give either a config or --space')
    if args.space and not args.input_size:
        parser.error('--space needs --input-size H W')
    from mmnas_ext.runs.measure_latency import Subject, measure_to_file

    try:
        if args.config:
            subject = Subject.of_config(args.config)
            if subject.hosts and args.input_size:
                parser.error('--input-size has no effect: host_choices of the config says the sizes')
        else:
            subject = Subject(SearchSpace.parse(args.space), (args.input_size[0], args.input_size[1]))
        settings: dict[str, Any] = dict(
            size=pick(args.input_size), output_stride=args.output_stride, channels_last=args.channels_last
        )
        subject = dataclasses.replace(subject, **{key: value for key, value in settings.items() if value is not None})
        measure_to_file(
            args.out,
            subject,
            device=args.device,
            batch_size=args.batch_size,
            threads=args.threads,
            repeats=args.repeats,
            warmup=args.warmup,
        )
    except (ValueError, OSError) as error:
        parser.error(shorten(str(error)))


COMMAND = Command(
    'measure the table of latencies that a search within milliseconds reads',
    'fna_retinanet_coco --out latency.json --device cuda',
    add_arguments,
    run,
    """
A search reads it by optim_wrapper=dict(cost=dict(metric='latency', table='latency.json', max=…)).
""",
)
