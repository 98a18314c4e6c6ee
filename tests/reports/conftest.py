"""A browser for the tests of the page; where there is none they are left out, and that is said.

With ``MMNAS_BROWSER=required`` in the environment they fail instead.
"""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.reports.browser import Browser

PROGRAMS = ('chromium', 'chromium-browser', 'google-chrome')
_LEFT_OUT = pytest.StashKey[int]()


def find_programs() -> tuple[str, str] | None:
    """Chromium and its driver, if both are installed, and Selenium with them."""
    chromium = next(filter(None, map(shutil.which, PROGRAMS)), None)
    driver = shutil.which('chromedriver')
    return (chromium, driver) if chromium and driver and find_spec('selenium') else None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line('markers', 'browser: needs chromium and chromedriver')


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if find_programs() or os.environ.get('MMNAS_BROWSER') == 'required':
        return
    left_out = [item for item in items if item.get_closest_marker('browser')]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
    config.stash[_LEFT_OUT] = len(left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not find_programs() and os.environ.get('MMNAS_BROWSER') != 'required':
        count = config.stash.get(_LEFT_OUT, None)
        tests = 'all' if count is None else str(count)
        terminalreporter.write_line(
            f'{tests} browser tests are left out: chromium, chromedriver or selenium is not installed'
        )


@pytest.fixture(scope='session')
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator['Browser']:
    """A headless Chromium, started once: a page takes it a second, its start two."""
    programs = find_programs()
    if programs is None:
        pytest.fail('MMNAS_BROWSER=required, but chromium, chromedriver or selenium is not installed')
    from tests.reports.browser import Browser

    session = Browser.start(*programs, Path(tmp_path_factory.mktemp('chromium')))
    yield session
    session.end()
