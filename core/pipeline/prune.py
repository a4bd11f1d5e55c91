"""``asrcompress prune``: a smaller checkpoint in float, judged by the same gate."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrcompress.accuracy.gate import GateVerdict
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.subject import PRUNED_FOLDER, subject_of
from asrcompress.console import Console
from asrcompress.errors import BadRecipe, CerGateFailed
from asrcompress.pipeline.measurement import gate_cer
from asrcompress.pipeline.pruning import RECORD
from asrcompress.pipeline.quantize import load_speech, prune_subject
from asrcompress.pipeline.recognizer import from_checkpoint
from asrcompress.pipeline.stages import record_stages
from asrcompress.recipe import Recipe
from asrcompress.run import FAILED, PASSED, Run, open_run
from asrcompress.stages import Stages

SPEED = {
    "structured": "smaller tensors: smaller and faster on every target",
    "unstructured": "zeros inside of tensors: no kernel of ONNX Runtime is faster for them, the "
    "file only zips smaller; Paddle Lite on ARM has a sparse kernel for 1x1 convolutions alone",
    "1xN": "zeros inside of tensors: no target here has a kernel for 1xN, the file only zips "
    "smaller",
    "2:4": "zeros inside of tensors: no kernel of ONNX Runtime's CPU is faster for them, the file "
    "only zips smaller; sparse tensor cores (NVIDIA, through TensorRT) are, which was not run here",
}
"""Who gains from each pattern, for people to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOutcome:
    """How a pruning ended; `failure` is None exactly where the gate passed.

    Attributes:
        record: as `asrcompress.pipeline.pruning_record.PruningRecord` wrote it.
        stages: the checkpoint, what was left of it, and that after recovery.
    """

    run: Run
    record: dict[str, Any]
    stages: Stages
    verdict: GateVerdict
    failure: CerGateFailed | None

    @property
    def checkpoint(self) -> Path:
        """The pruned experiment."""
        return self.run.path / PRUNED_FOLDER

    def to_json(self) -> dict[str, Any]:
        """Plain data: where the checkpoint is, and what was measured."""
        return {
            "run": str(self.run.path),
            "checkpoint": str(self.checkpoint),
            "passed": self.failure is None,
            "failure": None if self.failure is None else str(self.failure),
            "pruning": self.record,
            "stages": self.stages.to_json()["stages"],
            "speed": SPEED[self.record["pattern"]],
            "verdict": self.verdict.to_json(),
        }


def prune_model(recipe: Recipe, checkpoint: Checkpoint, console: Console) -> PruneOutcome | None:
    """Prune, recover, and measure; goes on where an interrupted run was.

    Returns:
        outcome with the verdict; None in the processes that only trained along.
    Raises:
        BadRecipe: nothing is to be removed.
        AsrCompressError: anything that stops the job before a verdict.
    """
    from asrcompress.compress.workers import join_workers
    from asrcompress.export.onnx_bundle import tool_versions

    if not recipe.prune.wanted:
        raise BadRecipe(
            "prune.amount: got 0 and nothing else to remove, expected more",
            hint="--prune-amount 0.4, --prune-drop-blocks N, a budget such as --prune-max-size-mb "
            "MB, or --prune-pattern unstructured",
        )
    workers = join_workers()
    if not workers.leads:
        workers.wait()
        run = open_run("prune", recipe, checkpoint, tools=tool_versions())
        speech = load_speech(recipe, console, guard=False)
        prune_subject(run, recipe, checkpoint, speech, console, workers)
        return None
    run = open_run("prune", recipe, checkpoint, tools=tool_versions())
    with run.lock():
        console.say(f"run {run.path}")
        speech = load_speech(recipe, console)
        workers.wait()
        prune_subject(run, recipe, checkpoint, speech, console, workers)
        verdict = gate_cer(
            run,
            recipe.gate,
            speech.gate,
            console,
            before=lambda: from_checkpoint(checkpoint, decoding=recipe.decoding),
            after=lambda: from_checkpoint(subject_of(run, checkpoint), decoding=recipe.decoding),
        )
        stages = record_stages(run, recipe, checkpoint, speech.gate, console)
        failure = None
        less = "--prune-amount" if recipe.prune.structured else "--prune-sparsity"
        if not verdict.passed:
            failure = CerGateFailed(
                f"CER gate: {verdict.reason}",
                hint=f"remove less ({less}), or train longer (--prune-epochs)",
            )
        run.update(status=FAILED if failure else PASSED, finished=time.time())
        return PruneOutcome(
            run=run,
            record=run.read_json(RECORD),
            stages=stages,
            verdict=verdict,
            failure=failure,
        )
