"""Compress PaddleSpeech acoustic models, prove what it cost in CER, and run the result lightly.

``asrcompress.runtime`` needs only the base install; ``asrcompress.compress``,
``asrcompress.calibration`` and ``asrcompress.export`` need ``pip install 'asrcompress[compress]'``.
Importing this package imports nothing outside the standard library.
"""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("asrcompress")

__all__ = ["__version__"]
