"""A run directory: everything that one ``qat`` or ``ptq`` did, and its verdict.

    runs/qat-3f9c21ab04/
        run.json             kind, recipe, checkpoint, tool versions, status, hashes
        log.txt              what was printed, with times
        metrics.jsonl        one line per optimizer step and per epoch
        visualdl/            the same for VisualDL, where it is installed
        before.json          CER of the checkpoint on the gate manifest
        state.pdstate        training state, while training
        weights.pdparams     trained weights under PaddleSpeech's names
        ranges.json          learned ranges
        model.fp32.onnx      the checkpoint's graph, for parity and comparison
        model.int8.onnx      the artifact that is measured, and shipped if it passes
        integer_share.json   kernels that ran
        parity.json          error per stage
        histograms.json      activations as calibration saw them
        sqnr.json            noise of each layer, for the report
        pruned/              what pruning left, as an experiment, where the recipe prunes
        pruning.json         what pruning did
        stages.json          CER, size and parameters of each stage's artifact
        after.json           CER of the artifact on the gate manifest
        verdict.json         of the gate
        report.html          all of this for people

and every ``sensitivity`` one:

        probes.jsonl         one line per probe, as it was measured
        sensitivity.json     all of them, for prune and mixed
        sensitivity.png      the same as a heat map

and every ``search`` one:

        trials.db            Optuna's database, unless the recipe names another
        before.json          CER of the checkpoint on the search set
        fp32/                the checkpoint as a bundle, which speed is measured against
        search.json          every candidate, the Pareto front, the one chosen and why
        search.html          the same for people

and every ``mixed`` one:

        before.json          CER of the checkpoint on the search set
        sensitivity.json     which orders the layers
        mixed.json           what was heard with how many layers in float, and what the gate said

The name is a digest of recipe and checkpoint: the same command finds the same directory and goes
on where it was interrupted. Every file is written under a temporary name and renamed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from asrcompress import strict_json
from asrcompress.bundles.manifest import DecoderModel, StreamingModel
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.errors import BadRun
from asrcompress.files import reading, sha256_file, write_atomically, writing
from asrcompress.recipe import Recipe

T = TypeVar("T")

SCHEMA_VERSION = 1
_KINDS = {dict: "an object", str: "text", int: "a whole number", float: "a number"}
PASSED, FAILED, UNFINISHED = "passed", "failed", "unfinished"
MEASURED = "measured"  # finished, and nothing was there to pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run directory. All methods read or write files in it."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the directory: ``qat-3f9c21ab04``."""
        return self.path.name

    @property
    def model(self) -> Path:
        """The INT8 artifact."""
        return self.path / "model.int8.onnx"

    @property
    def fp32_model(self) -> Path:
        """The checkpoint's own graph."""
        return self.path / "model.fp32.onnx"

    @property
    def streaming_model(self) -> Path:
        """The INT8 artifact for streams."""
        return self.path / "model-streaming.int8.onnx"

    @property
    def weights(self) -> Path:
        """Trained weights in PaddleSpeech's format."""
        return self.path / "weights.pdparams"

    @property
    def ranges(self) -> Path:
        """Learned ranges."""
        return self.path / "ranges.json"

    @property
    def state(self) -> Path:
        """Training state of an unfinished run."""
        return self.path / "state.pdstate"

    def has(self, name: str) -> bool:
        """Whether a file of this run is there, which means that it is complete."""
        return (self.path / name).is_file()

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of this run, which is always an object.

        Raises:
            BadRun: missing or not a JSON object.
        """
        path = self.path / name
        try:
            tree = strict_json.parse(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BadRun(
                f"{path}: missing, the run was not finished",
                hint="repeat the command that started it; it goes on where it was",
            ) from None
        except OSError as error:
            raise BadRun(f"{path}: cannot be read, {error.strerror}") from error
        except ValueError as error:
            raise BadRun(f"{path}: is not JSON, {error}") from error
        if not isinstance(tree, dict):
            raise BadRun(f"{path}: holds {type(tree).__name__}, expected an object")
        return tree

    def field(self, name: str, *keys: str, kind: type[T]) -> T:
        """One value of a JSON file of this run: ``run.field("run.json", "recipe", kind=dict)``.

        Raises:
            BadRun: missing, or of another type.
        """
        value: Any = self.read_json(name)
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if kind is float and type(value) is int and abs(value) < 2**53:
            value = float(value)
        if type(value) is not kind:  # not isinstance: True is an int to Python
            raise BadRun(
                f"{self.path / name}: {'.'.join(keys)} is {str(value)[:60]}, "
                f"expected {_KINDS[kind]}"
            )
        found: T = value
        return found

    def write_json(self, name: str, data: Any) -> None:
        """Write a JSON file of this run, atomically."""
        write_atomically(self.path / name, json.dumps(data, indent=1, ensure_ascii=False) + "\n")

    @property
    def decoder_model(self) -> Path:
        """The attention decoder, as it ships."""
        return self.path / "decoder.int8.onnx"

    def decoder_spec(self) -> DecoderModel:
        """What `decoder_model` is, and how it was judged.

        Raises:
            BadRun: the run has none, or its description is damaged.
        """
        return strict_json.from_json(
            DecoderModel,
            self.read_json("decoder.json"),
            item=str(self.path / "decoder.json"),
            error=BadRun,
        )

    def streaming_spec(self) -> StreamingModel:
        """How `streaming_model` is fed.

        Raises:
            BadRun: the run has none.
        """
        return strict_json.from_json(
            StreamingModel,
            self.read_json("streaming.json"),
            item=str(self.path / "streaming.json"),
            error=BadRun,
        )

    def append_metric(self, **values: Any) -> None:
        """Add a line to metrics.jsonl."""
        self._append("metrics.jsonl", json.dumps(values))

    def truncate_metrics(self, step: int) -> None:
        """Forget the steps after `step`, which a resumed run is about to repeat."""
        path = self.path / "metrics.jsonl"
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            # The last line of a killed process may be half a line.
            kept = [line for line in lines if line.endswith("}")]
            kept = [line for line in kept if json.loads(line)["step"] <= step]
            write_atomically(path, "".join(f"{line}\n" for line in kept))

    def append_json(self, name: str, data: Any) -> None:
        """Add a line to a file of JSON lines."""
        self._append(name, json.dumps(data, ensure_ascii=False, allow_nan=False))

    def read_json_lines(self, name: str) -> list[Any]:
        """Every line of such a file; none where it is not there yet.

        A line that a killed process left unfinished is cut off, so that the next one stands alone.

        Raises:
            BadRun: a finished line is not JSON.
        """
        path = self.path / name
        if not path.is_file():
            return []
        with reading(path, BadRun):
            text = path.read_text(encoding="utf-8", errors="replace")
        finished = text[: text.rfind("\n") + 1]
        if finished != text:
            write_atomically(path, finished)
        try:
            return [strict_json.parse(line) for line in finished.splitlines()]
        except ValueError as error:
            raise BadRun(f"{path}: a line is not JSON, {error}") from error

    def log(self, message: str) -> None:
        """Add a line with the time to log.txt."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._append("log.txt", f"{stamp} {message}")

    def _append(self, name: str, line: str) -> None:
        path = self.path / name
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def status(self) -> str:
        """`PASSED`, `FAILED`, `MEASURED` or `UNFINISHED`."""
        return str(self.read_json("run.json").get("status", UNFINISHED))

    def update(self, **values: Any) -> None:
        """Change fields of run.json."""
        self.write_json("run.json", {**self.read_json("run.json"), **values})

    @contextmanager
    def lock(self, *, wait: bool = False) -> Iterator[None]:
        """Hold the run for this process; the lock dies with the process.

        Args:
            wait: until another process lets go of it.
        Raises:
            BadRun: another process holds it; names its pid.
        """
        path = self.path / "lock"
        with writing(path):
            file = path.open("a+")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                file.seek(0)
                raise BadRun(
                    f"{self.path}: is in use by process {file.read().strip() or 'unknown'}",
                    hint="wait for it, or end it; then repeat the command",
                ) from None
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()))
            file.flush()
            yield


def digest_of(kind: str, recipe: Recipe, checkpoint: Checkpoint) -> str:
    """Digest of all that decides a run's result; where it is written does not.

    Manifests count with what is in them: an edited one must not find the stages of the old one.
    """
    # These tables are about runs of their own kind only; `mixed` chooses by the search set, too.
    others = {"runs", "sensitivity", "search"} - {"search" if kind == "mixed" else kind}
    tables = {name: table for name, table in recipe.to_dict().items() if name not in others}
    data = (
        recipe.data.train,
        recipe.data.calibration,
        recipe.data.dev,
        recipe.data.gate,
        recipe.prune.sensitivity,
        recipe.search.sensitivity if kind == "search" else None,
    )
    manifests = [_content_digest(path) for path in data if path is not None]
    text = json.dumps([kind, tables, checkpoint.sha256, manifests], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _content_digest(manifest: Path) -> list[str]:
    """Digests of a manifest file, or of the text files of a Kaldi directory."""
    names = ("wav.scp", "text", "utt2spk", "segments")
    files = [manifest / name for name in names] if manifest.is_dir() else [manifest]
    return [sha256_file(path) for path in files if path.is_file()]


def open_run(kind: str, recipe: Recipe, checkpoint: Checkpoint, *, tools: Mapping[str, str]) -> Run:
    """The run directory of this recipe, made if it is not there."""
    name = f"{kind}-{digest_of(kind, recipe, checkpoint)[:10]}"
    run = Run(path=recipe.runs / name)
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadRun(f"{run.path}: cannot be made, {error.strerror}") from error
    if not run.has("run.json"):
        run.write_json(
            "run.json",
            {
                "schema_version": SCHEMA_VERSION,
                "kind": kind,
                "status": UNFINISHED,
                "started": time.time(),
                "recipe": recipe.to_dict(),
                "checkpoint": {"name": checkpoint.name, "sha256": checkpoint.sha256},
                "tools": dict(tools),
            },
        )
    return run


def read_run(path: Path) -> Run:
    """An existing run directory.

    Raises:
        BadRun: not one, or of another schema.
    """
    run = Run(path=path)
    if not os.path.isdir(path):
        raise BadRun(f"{path}: no such run directory")
    version = run.read_json("run.json").get("schema_version")
    if version != SCHEMA_VERSION:
        raise BadRun(f"{path}: schema version {version}, expected {SCHEMA_VERSION}")
    return run


def latest_passing_run(runs: Path) -> Run:
    """The run under `runs` that passed its gate last.

    Raises:
        BadRun: none has; says what there is.
    """
    found = [read_run(file.parent) for file in sorted(runs.glob("*/run.json"))]
    passing = [run for run in found if run.status() == PASSED and run.model.is_file()]
    if not passing:
        seen = ", ".join(f"{run.name} {run.status()}" for run in found) or "no runs"
        raise BadRun(
            f"{runs}: no run has passed its gate, got {seen}",
            hint="asrcompress qat --target int8",
        )
    return max(passing, key=lambda run: run.field("run.json", "finished", kind=float))
