"""``mmnas train``."""

import argparse

from mmnas_ext.cli.messages import errors
from mmnas_ext.cli.options import Command, add_run, begin_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a training can be told."""
    add_run(parser)
    parser.add_argument('--resume', action='store_true', help='go on where the last run in the work dir stopped')
    parser.add_argument(
        '--join',
        action='store_true',
        help='share the trials of a random search with every process that is started so on this work dir',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate with the real batch')
    parser.add_argument('--search-only', action='store_true', help='stop when the network is found')
    parser.add_argument(
        '--arch',
        help='skip the search and train this network: a .json path, FNA text, a zoo name (default: search)',
    )
    parser.add_argument(
        '--pick',
        type=int,
        metavar='K',
        help='train network K of the front that the search in the work dir measured (default: the chosen one)',
    )
    parser.add_argument(
        '--adapt-all',
        type=int,
        nargs='*',
        metavar='K',
        help='train these networks of that front, or all, in turn, in <work dir>/front/K (default: the chosen one)',
    )
    parser.add_argument(
        '--dry-run', action='store_true', help='check, do one step of each half, print the plan, and leave no file'
    )


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Checks the config, then runs it."""
    begin_run(args)
    from mmnas_ext.engine import NonFiniteLossError
    from mmnas_ext.remap.download import DownloadError
    from mmnas_ext.remap.reader import CheckpointError
    from mmnas_ext.runs.checks import check_config
    from mmnas_ext.runs.dry_run import dry_run
    from mmnas_ext.runs.front_runs import adapt_all, check_all, check_asked, dry_run_all, pick_network, take_host
    from mmnas_ext.runs.manifest import NoNetworkError, ResumeError
    from mmnas_ext.runs.methods import method_of
    from mmnas_ext.runs.run import prepare, run, start_processes
    from mmnas_ext.runs.session import agreed, say
    from mmnas_ext.runs.sharing import check_join, choose_gpu
    from mmnas_ext.workdir import WorkDir

    with errors():
        cfg = prepare(args.config, args.work_dir, args.launcher, args.amp, args.auto_scale_lr, args.cfg_options)
        start_processes(cfg)
        resume = args.resume
        if args.join:
            given = {
                '--resume': args.resume, '--arch': args.arch is not None, '--pick': args.pick is not None,
                '--adapt-all': args.adapt_all is not None,
            }  # fmt: skip
            check_join(method_of(cfg), [option for option, is_given in given.items() if is_given])
            if args.launcher == 'none':
                choose_gpu()
            resume = agreed(WorkDir(cfg.work_dir).manifest.is_file)
        check_asked(args.arch, args.search_only, args.pick, args.adapt_all)
        if args.adapt_all is not None:
            several = check_all(cfg, args.adapt_all, args.resume)
            if args.dry_run:
                say(dry_run_all(cfg, several))
                return
        else:
            arch = args.arch if args.pick is None else pick_network(cfg, args.pick)
            take_host(cfg, arch)
            prepared = check_config(cfg, arch, args.search_only, resume)
            if args.dry_run:
                say(dry_run(cfg, prepared, args.search_only, arch, resume))
                return
    with errors(ResumeError, NoNetworkError, CheckpointError, DownloadError, NonFiniteLossError):
        if args.adapt_all is not None:
            adapt_all(cfg, several, draw=True)
        else:
            run(cfg, args.resume, args.search_only, arch, draw=True, prepared=prepared, join=args.join)


COMMAND = Command(
    'train a config; what describes a search is searched first, and what it finds is trained',
    'fna_retinanet_coco --work-dir work_dirs/mine',
    add_arguments,
    run,
    """
A config with derived=dict(…) is a search: by gradients, at random with random_search=dict(…) in it, or by
evolution with evolution=dict(…) in it;
with a distiller as its model blocks are distilled, all paths rated, and the best network within the
limits is found. Where the search has measured a front of networks, --pick K trains another one of it,
and --adapt-all several.
Several GPUs: torchrun --nproc_per_node=8 -m mmnas_ext train CONFIG --launcher pytorch
A random search, a trial on each GPU: torchrun --nproc_per_node=8 -m mmnas_ext train CONFIG --join
""",
    stopped='stopped: --resume goes on from the last checkpoint',
)
