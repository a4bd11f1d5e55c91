"""``python -m asrcompress``: the same as the ``asrcompress`` command."""

from __future__ import annotations

from asrcompress.cli.app import main

if __name__ == "__main__":
    main()
