"""Tests of MMPose are there where MMPose is: the project does not need it (docs/hosts-pose.md)."""

from importlib.util import find_spec

collect_ignore = [] if find_spec('mmpose') else ['test_pose.py']
