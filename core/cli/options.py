"""Options that several commands share, and the panels of the help page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PREPARE, COMPRESS, SHIP = "1. Prepare", "2. Compress", "3. Ship and run"

Json = Annotated[bool, typer.Option("--json", help="print one JSON object")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress on stderr")]
Force = Annotated[bool, typer.Option("--force", help="overwrite what is there")]
Threads = Annotated[int, typer.Option(min=1, help="threads of ONNX Runtime")]
Config = Annotated[Path | None, typer.Option(help="the network's YAML, where there are several")]
Weights = Annotated[Path | None, typer.Option(help="the .pdparams file, where there are several")]
