"""What every test starts from: two threads, no display, known random states."""

import gc
import os
import random
import sys

import pytest
from hypothesis import settings

# before torch is imported: it reads them once
os.environ.setdefault('OMP_NUM_THREADS', '2')
os.environ.setdefault('MKL_NUM_THREADS', '2')
os.environ.setdefault('MPLBACKEND', 'Agg')

# the same examples on every machine, and no failure because a machine was busy
settings.register_profile('house', deadline=None, derandomize=True, max_examples=30)
settings.load_profile('house')


@pytest.fixture(autouse=True)
def known_random_states() -> None:
    """Seeds what is loaded; importing torch for a test that does without it would only cost time."""
    random.seed(0)
    if 'numpy' in sys.modules:
        sys.modules['numpy'].random.seed(0)
    if 'torch' in sys.modules:
        sys.modules['torch'].manual_seed(0)


@pytest.fixture(autouse=True, scope='session')
def frozen_imports() -> None:
    """Keeps the garbage collector from what is imported: MMEngine's datasets call it, a fifth of a second each time."""
    gc.collect()
    gc.freeze()
