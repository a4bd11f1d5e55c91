"""The benchmark is a package at the root of the repository, and not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="needs the [compress] extra")
_ROOT = str(Path(__file__).resolve().parents[2])

# Only while it is found: the root also holds folders whose bare names mean nothing.
sys.path.insert(0, _ROOT)
try:
    import bench  # noqa: F401
finally:
    sys.path.remove(_ROOT)
