"""Compress PaddleSpeech acoustic models, prove what it cost in CER, and run the result lightly.

``asrcompress.runtime`` needs only the base install; ``asrcompress.compress``,
``asrcompress.calibration`` and ``asrcompress.export`` need ``pip install 'asrcompress[compress]'``.
Importing this package imports nothing outside the standard library.
"""

from __future__ import annotations

__version__: str

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """The version, when it is asked for: importlib.metadata takes 50 ms to import."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("asrcompress")
