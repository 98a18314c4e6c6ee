"""A headless Chromium that opens a page, is made narrow, dark or paper, and says what it sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

_SWITCHES = (
    'headless', 'no-sandbox', 'disable-gpu', 'disable-quic', 'no-first-run', 'disable-background-networking',
    'disable-component-update', 'disable-sync', 'hide-scrollbars', 'disable-dev-shm-usage',
)  # fmt: skip
_PATIENCE = 120  # seconds, of a machine that has other things to do


@dataclass(frozen=True)
class Browser:
    """A session of Chromium; `driver` is Selenium's."""

    driver: Chrome

    @classmethod
    def start(cls, chromium: str, driver: str, profile: Path) -> 'Browser':
        """Starts Chromium with an empty profile."""
        options = Options()
        options.binary_location = chromium
        for switch in (*_SWITCHES, f'user-data-dir={profile}'):
            options.add_argument(f'--{switch}')
        options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
        session = cls(Chrome(options=options, service=Service(driver)))
        session.driver.set_page_load_timeout(_PATIENCE)
        session.driver.set_script_timeout(_PATIENCE)
        return session

    def end(self) -> None:
        """Ends it."""
        self.driver.quit()

    def open(self, page: Path, width: int = 1400) -> None:
        """Opens a page at a width in pixels, on a screen, in the light, and waits until its charts are drawn."""
        self.show(width)
        self.driver.get_log('browser')  # forgets what came before
        self.driver.get(page.as_uri())
        self.wait("return document.documentElement.dataset.drawn || !document.querySelector('.chart')")

    def show(self, width: int, dark: bool = False, media: str = 'screen') -> None:
        """Makes the page that wide, on a screen or on paper, in the light or in the dark."""
        size = dict(width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', size)
        scheme = dict(name='prefers-color-scheme', value='dark' if dark else 'light')
        self.driver.execute_cdp_cmd('Emulation.setEmulatedMedia', dict(media=media, features=[scheme]))
        # plotly follows a new width with the next frames
        self.driver.execute_async_script(
            'const done = arguments[0]; requestAnimationFrame(() => setTimeout(() => requestAnimationFrame(done), 60))'
        )

    def wait(self, script: str) -> None:
        """Waits until a script gives something true."""
        WebDriverWait(self.driver, _PATIENCE, 0.02).until(lambda driver: driver.execute_script(script))

    def run(self, script: str) -> Any:
        """What a script gives."""
        return self.driver.execute_script(script)

    def overflow(self) -> list[str]:
        """What reaches beyond the right edge and is not in a box that scrolls; empty where the page fits."""
        return self.run(
            """const wide = innerWidth + 1, found = [];
            if (document.documentElement.scrollWidth <= innerWidth) return found;
            for (const each of document.querySelectorAll('body *'))
              if (each.getBoundingClientRect().right > wide && !each.closest('div.wide')) found.push(each.outerHTML.slice(0, 90));
            return ['scrollWidth ' + document.documentElement.scrollWidth, ...found];"""  # noqa: E501
        )

    def colours(self, selector: str, name: str) -> set[str]:
        """The values of a style that the elements of a selector have."""
        script = f"return [...document.querySelectorAll('{selector}')].map(each => getComputedStyle(each).{name})"
        return set(self.run(script))

    def hover(self, selector: str, index: int = 0) -> str:
        """The text that appears where the mouse is moved to an element."""
        target = self.driver.find_elements(By.CSS_SELECTOR, selector)[index]
        self.run("document.querySelectorAll('section')[0].scrollIntoView()")
        ActionChains(self.driver).move_to_element(target).perform()
        self.wait("return document.querySelectorAll('.hoverlayer text').length > 0")
        return self.run(
            "return [...document.querySelectorAll('.hoverlayer text')].map(each => each.textContent).join(' ')"
        )

    def complaints(self) -> Sequence[str]:
        """What the console says, and what was fetched from anywhere."""
        fetched = self.run("return performance.getEntriesByType('resource').map(each => each.name)")
        outside = [name for name in fetched if not name.startswith('data:')]
        return [*(entry['message'] for entry in self.driver.get_log('browser')), *outside]
