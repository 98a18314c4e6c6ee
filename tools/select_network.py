"""Chooses a network again from a finished search: by other limits, or in another way.

It reads the super-network's last checkpoint in the work dir and leaves the run as it is. What was measured for an
earlier choice is not measured again. The result is trained by ``tools/train.py CONFIG --work-dir … --arch FILE``.

Example: ``python tools/select_network.py configs/fna_retinanet_mbv2_steel.py --selection measured --max-macs 1.7e8``
"""

from pathlib import Path

from mmnas_ext.install_check import explained

with explained():
    from mmnas_ext.cli import add_limits, errors, make_parser, parse, read_limits
    from mmnas_ext.runs.gradient import select_again
    from mmnas_ext.runs.manifest import ResumeError
    from mmnas_ext.runs.run import prepare, start_processes
    from mmnas_ext.search.decision import KINDS


def main() -> None:
    """Chooses, and writes ``arch.json`` and ``decision.json``."""
    parser = make_parser(__doc__)
    parser.add_argument('--selection', choices=KINDS, help="how to choose; by default the config's way")
    parser.add_argument('--out', help='where both files go (default: selected/ in the work dir)')
    add_limits(parser)
    args = parse(parser)
    with errors():
        cfg = prepare(args.config, args.work_dir, args.launcher, options=args.cfg_options)
        start_processes(cfg)
        limits = read_limits(args)
    with errors(ResumeError, ValueError, OSError):
        folder = Path(args.out or Path(cfg.work_dir, 'selected'))
        select_again(cfg, folder, args.selection, limits)


if __name__ == '__main__':
    main()
