"""Plain texts of configs; and tests of MMPose only where MMPose is, which nothing else needs (docs/hosts-pose.md)."""

from importlib.util import find_spec

import pytest

collect_ignore = [] if find_spec('mmpose') else ['test_pose.py']


@pytest.fixture(autouse=True)
def texts_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps MMEngine from formatting the text of a config: a run does it a dozen times, longer than it trains here."""
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda code, **_: (code, True))
