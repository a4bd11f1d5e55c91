"""The settings of a search: what it may try, what it is to reach, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asrcompress.setting import setting
from asrcompress.settings import OBSERVERS

PREFERENCES = ("speed", "size", "memory", "accuracy")
# A candidate is one point of these; what else a recipe says is the same for all of them.
SPACE = ("observers", "qat", "prune_amounts", "float_layers", "sensitivity")
# What may change while a search goes on: nothing that was measured depends on it.
GOALS = (
    "trials", "timeout_s", "max_size_mb", "max_rtf", "max_memory_mb", "prefer", "gate_tries",
    "storage",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What ``asrcompress search`` tries, and the budgets that it is to meet within [gate].

    ``asrcompress mixed`` takes `utterances`, `seed` and `gate_tries` from here.
    """

    trials: int = setting(20, "candidates to try, those of all processes together", low=1)
    timeout_s: float = setting(
        0.0, "begin no candidate after this many seconds; 0: no limit", low=0.0
    )
    max_size_mb: float = setting(
        0.0, "budget: size of the bundle, millions of bytes; 0: none", low=0.0
    )
    max_rtf: float = setting(
        0.0, "budget: real-time factor on one thread of this machine; 0: none", low=0.0
    )
    max_memory_mb: float = setting(
        0.0, "budget: most memory of a process that transcribes; 0: none", low=0.0
    )
    prefer: str = setting(
        "speed", "what decides among candidates that keep every limit", one_of=PREFERENCES
    )
    utterances: int = setting(
        0,
        "choose by N utterances of data.dev, here and in mixed; 0: all",
        low=0,
        flag="search-utterances",
    )
    observers: tuple[str, ...] = setting(
        OBSERVERS, "calibrations to try", one_of=OBSERVERS, flag="search-observer"
    )
    qat: bool = setting(True, "try training.epochs of training, and none", flag="search-qat")
    prune_amounts: tuple[float, ...] = setting(
        (0.0, 0.2, 0.4), "shares of the encoder to try without", low=0.0, high=0.95,
        flag="search-prune-amount",
    )  # fmt: skip
    float_layers: tuple[int, ...] = setting(
        (0, 1, 2, 4, 8), "how many of the most sensitive layers to try in float", low=0,
        flag="search-float-layers",
    )  # fmt: skip
    sensitivity: Path | None = setting(
        None,
        "sensitivity.json, which orders the layers; without it none is tried in float",
        flag="search-sensitivity",
    )
    gate_tries: int = setting(
        3, "candidates that the gate is asked about, the best one first; mixed: sets", low=1
    )
    seed: int = setting(
        0, "seed of what is tried, and of the order of utterances", low=0, high=2**31 - 1,
        flag="search-seed",
    )  # fmt: skip
    storage: str = setting(
        "", "SQLAlchemy URL of the trials' database; default: SQLite in the search's folder"
    )
