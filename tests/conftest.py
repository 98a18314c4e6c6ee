"""What every test starts from: two threads, no display, known random states."""

import gc
import os
import random
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from tests.device import LEFT_OUT, find_device

# before torch is imported: it reads them once, and takes MKL's number for OpenMP's
os.environ.setdefault('OMP_NUM_THREADS', '1' if 'PYTEST_XDIST_WORKER' in os.environ else '2')
os.environ.setdefault('MKL_NUM_THREADS', os.environ['OMP_NUM_THREADS'])
# threads that wait for each other let go of the core: on a busy machine they took ten times as long, spinning
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
os.environ.setdefault('MPLBACKEND', 'Agg')

_SMALL = ('engine', 'runs')  # folders of tests whose networks have a few channels
# the same examples on every machine, and no failure because a machine was busy
settings.register_profile('house', deadline=None, derandomize=True, max_examples=30)
settings.load_profile('house')


@pytest.fixture(scope='session', autouse=True)
def imports_outside_of_the_garbage() -> None:
    """Keeps what was imported out of every collection: each dataset and each run collects, 0.3 s a time otherwise."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session', autouse=True)
def config_texts_formatted_once() -> None:
    """Remembers what yapf makes of a text: a runner formats its config half a dozen times, half a second each."""
    if 'mmengine' not in sys.modules:
        return
    from yapf.yapflib import yapf_api

    plain, known = yapf_api.FormatCode, {}

    def format_code(code: str, **settings: Any) -> tuple[str, bool]:
        key = code, repr(settings)
        if key not in known:
            known[key] = plain(code, **settings)
        return known[key]

    yapf_api.FormatCode = format_code


@pytest.fixture(autouse=True, scope='module')
def one_thread_for_small_networks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Computes with a single thread, before any fixture of a module runs: other numbers give other last bits.

    Networks of a few channels cost a second thread more than it computes.
    """
    if request.path.parent.name not in _SMALL or 'torch' not in sys.modules:
        yield
        return
    torch: Any = sys.modules['torch']
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_default_scope() -> None:
    """Forgets the scope that an earlier test's runner or config has set: names are looked up as in a new process."""
    if 'mmengine.registry' in sys.modules:
        sys.modules['mmengine.registry'].DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True)
def known_random_states() -> None:
    """Seeds what is loaded; importing torch for a test that does without it would only cost time."""
    random.seed(0)
    if 'numpy' in sys.modules:
        sys.modules['numpy'].random.seed(0)
    if 'torch' in sys.modules:
        sys.modules['torch'].manual_seed(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says that the tests of the device are left out, where they are."""
    if find_device() is None:
        terminalreporter.write_line(LEFT_OUT)
