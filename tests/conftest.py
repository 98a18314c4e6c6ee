"""What every test starts from: two threads, no display, known random states."""

import gc
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
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
# files of few tests that take long: what is begun last should be short, or one process waits for another at the end
_LONG = (
    'test_demo', 'test_kill', 'test_demo_dna', 'test_pip_install', 'test_notebook', 'test_own_data_page', 'test_real',
    'test_one_line', 'test_hosts', 'test_exporting', 'test_front_runs', 'test_distilled_runs', 'test_own_data',
)  # fmt: skip
# the same examples on every machine, and no failure because a machine was busy
settings.register_profile('house', deadline=None, derandomize=True, max_examples=30)
settings.load_profile('house')


def pytest_configure(config: pytest.Config) -> None:
    """Keeps xdist from its own order of files, by their number of tests: a single one may take half a minute."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the files that take long."""
    place = {name: number for number, name in enumerate(_LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(_LONG)))


@pytest.fixture(scope='session', autouse=True)
def imports_outside_of_the_garbage() -> Iterator[Callable[[], None]]:
    """Keeps what was imported out of every collection: each dataset and each run collects, 0.3 s a time otherwise.

    What a test imports comes too late for the first time: it is kept out from the next test on, when nothing of a test
    lives any more. Gives what does that.
    """
    began, slow = [0.0], [True]

    def watch(phase: str, _info: dict[str, int]) -> None:
        if phase == 'start':
            began[0] = time.thread_time()
        elif time.thread_time() - began[0] > 0.03:
            slow[0] = True

    def keep_out() -> None:
        if slow[0]:
            gc.collect()
            gc.freeze()
            slow[0] = False

    gc.callbacks.append(watch)
    keep_out()
    yield keep_out
    gc.callbacks.remove(watch)


@pytest.fixture(autouse=True)
def imports_of_a_test_outside_of_the_garbage(imports_outside_of_the_garbage: Callable[[], None]) -> None:
    """Keeps out of the collections what the tests before have imported, if collections have become slow."""
    imports_outside_of_the_garbage()


@pytest.fixture(scope='session', autouse=True)
def runners_and_configs_at_once() -> None:
    """Spares each runner what takes half a second and decides nothing, and each config what does not change.

    That is the layout of its config by yapf, where a text that is no Python is still refused, and the versions of
    compilers; and a hundred metafiles of a host for each config that inherits one of its own. Processes of their own,
    as users start them, do without all this.
    """
    if 'mmengine' not in sys.modules:
        return
    from mmengine.config import utils
    from mmengine.runner import runner
    from yapf.yapflib import yapf_api

    def check_code(code: str, **_settings: Any) -> tuple[str, bool]:
        compile(code, 'a config', 'exec')
        return code, False

    yapf_api.FormatCode = check_code
    runner.collect_env = cache(runner.collect_env)
    utils.load = cache(utils.load)


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
