"""``python -m mmnas_ext`` is `mmnas`, e.g. for a launcher: torchrun --nproc_per_node=8 -m mmnas_ext train CONFIG."""

import sys

from mmnas_ext.cli.main import main

if __name__ == '__main__':
    sys.exit(main())
