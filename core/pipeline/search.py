"""``asrcompress search``: which recipe, of many, for this checkpoint, CER and budget.

    trials.db       Optuna's database, unless search.storage names another
    before.json     what the checkpoint made of the search set
    gate/           and of the gate's manifest, once something was to be verified
    fp32/           the checkpoint as a bundle, and recordings/, which speed is measured with
    search.json     every candidate, the front, the one chosen and why
    search.html     the same for people

Candidates are chosen by ``data.dev``. The gate's manifest is heard only after that, by the chosen
one; if it fails, by the next best. What passes is a run like any other, and ``asrcompress export``
takes it.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asrcompress import search_text, strict_json
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.streaming import check_streamable
from asrcompress.console import Console
from asrcompress.errors import AsrCompressError, BadRun, SearchFailed
from asrcompress.files import held
from asrcompress.pareto import ranked
from asrcompress.pipeline.audition import check_dev, open_audition
from asrcompress.pipeline.decoder import check_decodable
from asrcompress.pipeline.footprint import Scales, measure_reference, write_recordings
from asrcompress.pipeline.measurement import share_before
from asrcompress.pipeline.quantize import compress
from asrcompress.pipeline.reporting import report_on
from asrcompress.pipeline.search_space import Space, space_of
from asrcompress.pipeline.search_study import Study, open_study
from asrcompress.pipeline.search_trial import Stand
from asrcompress.pipeline.shipping import ship_checkpoint, ship_run
from asrcompress.recipe import Recipe
from asrcompress.report.search_page import write_search_report
from asrcompress.run import MEASURED, Run, digest_of, open_run
from asrcompress.search import FAILED, RESULT, Candidate, Choice, Goal, SearchResult, Verification
from asrcompress.search_settings import GOALS, Search

_GATE = "gate"
_POLL_S = 1.0  # between looks at what other processes are doing


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOutcome:
    """How a search ended; `failure` is None exactly where a candidate was chosen.

    Attributes:
        run: of the search; every candidate has its own beside it.
        chosen: the run that passed the gate.
    """

    run: Run
    result: SearchResult
    chosen: Run | None
    failure: SearchFailed | None
    report: Path | None

    def to_json(self) -> dict[str, Any]:
        """Plain data: where everything is, and all candidates."""
        return {
            "run": str(self.run.path),
            "chosen": None if self.chosen is None else str(self.chosen.path),
            "report": None if self.report is None else str(self.report),
            "passed": self.failure is None,
            "failure": None if self.failure is None else str(self.failure),
            "result": strict_json.to_json(self.result),
        }


def search(recipe: Recipe, checkpoint: Checkpoint, console: Console) -> SearchOutcome:
    """Try candidates until there are enough, choose one, and have the gate judge it.

    Several processes with the same recipe and database share the trials; each ends with the same
    result. An interrupted search goes on where it was.

    Raises:
        BadRecipe: no development manifest, one that is too small, or an empty space.
        DataLeak: the development or training manifest shares speech with the gate's.
        MissingExtra: Optuna is not installed.
        AsrCompressError: what stops every candidate.
    """
    from asrcompress.export.onnx_bundle import tool_versions

    check_dev(recipe)
    check_streamable(checkpoint, recipe.streaming)
    check_decodable(checkpoint, recipe.decoding)
    space, notes = space_of(recipe, checkpoint)
    for note in notes:
        console.say(note)
    kept = _what_counts(recipe)
    run = open_run("search", kept, checkpoint, tools=tool_versions())
    console.say(f"run {run.path}, {len(space.choices())} combinations")
    study = _study(run, kept, recipe, checkpoint, space)
    stand = _stand(run, recipe, checkpoint, space, study, console)
    _explore(study, stand, recipe.search, console)
    with run.lock(wait=True):
        return _conclude(run, recipe, stand, study)


def _what_counts(recipe: Recipe) -> Recipe:
    """The recipe without what candidates do not depend on: budgets may change, trials be added."""
    default = Search()
    search = replace(recipe.search, **{name: getattr(default, name) for name in GOALS})
    return replace(recipe, search=search)


def goal_of(recipe: Recipe) -> Goal:
    """What a candidate has to keep."""
    search, gate = recipe.search, recipe.gate
    return Goal(
        max_cer_increase=gate.max_cer_increase,
        relative=gate.relative,
        min_integer_share=gate.min_integer_share,
        max_size_mb=search.max_size_mb or None,
        max_rtf=search.max_rtf or None,
        max_memory_mb=search.max_memory_mb or None,
        prefer=search.prefer,
    )


def _study(run: Run, kept: Recipe, recipe: Recipe, checkpoint: Checkpoint, space: Space) -> Study:
    def run_name(choice: Choice) -> str:
        kind = "qat" if choice.epochs else "ptq"
        return f"{kind}-{digest_of(kind, space.recipe_of(choice), checkpoint)[:10]}"

    names = {choice: run_name(choice) for choice in space.choices()}  # manifests are read for it
    return open_study(
        f"search-{digest_of('search', kept, checkpoint)}",
        space,
        goal_of(recipe),
        storage=recipe.search.storage or f"sqlite:///{run.path.absolute() / 'trials.db'}",
        lock=run.path / "trials.lock",
        run_name=names.__getitem__,
        seed=recipe.search.seed,
    )


def _stand(
    run: Run,
    recipe: Recipe,
    checkpoint: Checkpoint,
    space: Space,
    study: Study,
    console: Console,
) -> Stand:
    """All that candidates are measured with; what is in the run directory is not made again."""
    with held(run.path / "stand.lock"):  # of several processes, one makes it
        audition = open_audition(run, recipe, checkpoint, console)
        bundle = _fp32_bundle(run, recipe, console)
        recordings = write_recordings(audition.utterances, run.path / "recordings")
    reference = study.reference(lambda: measure_reference(bundle, recordings, console))
    return Stand(
        space=space,
        audition=audition,
        scales=Scales(bundle=bundle, recordings=recordings, reference=reference),
    )


def _fp32_bundle(run: Run, recipe: Recipe, console: Console) -> Path:
    """The checkpoint as a bundle for whole utterances, made if it is not there."""
    path, source = run.path / "fp32", recipe.checkpoint.path
    assert source is not None  # the checkpoint was read from there
    if not path.is_dir():
        whole = replace(recipe, streaming=replace(recipe.streaming, chunk_size=0))
        with tempfile.TemporaryDirectory(dir=run.path, prefix=".fp32-") as folder:
            made = Path(folder) / "bundle"
            ship_checkpoint(source, whole, made, force=False, console=console)
            made.rename(path)
    return path


def _explore(study: Study, stand: Stand, settings: Search, console: Console) -> None:
    """Try candidates, then wait for those of other processes."""
    end = time.monotonic() + settings.timeout_s if settings.timeout_s else None

    def measure(number: int, choice: Choice) -> Candidate:
        console.say(f"candidate {number}: {choice.words}")
        found = stand.measure(number, choice)
        console.say(f"candidate {number}: {search_text.candidate(found)}")
        return found

    while (end is None or time.monotonic() < end) and study.explore(measure, settings.trials):
        pass
    if study.busy():
        with console.status("waiting for the candidates of other processes"):
            while study.busy():
                time.sleep(_POLL_S)


def _conclude(run: Run, recipe: Recipe, stand: Stand, study: Study) -> SearchOutcome:
    """Choose, verify, roll back where the gate says no; writes search.json and the page."""
    goal, candidates, audition = goal_of(recipe), study.candidates(), stand.audition
    if candidates and all(item.state == FAILED for item in candidates):
        raise BadRun(
            f"{run.path}: every candidate failed, the last one with: {candidates[-1].note}"
        )
    order = ranked(candidates, goal)
    verified, chosen = list[Verification](), None
    for item in order[: recipe.search.gate_tries]:
        verified.append(_verify(run, item, recipe, stand))
        if verified[-1].passed:
            chosen = item
            break
    result = SearchResult(
        checkpoint=audition.checkpoint.name,
        checkpoint_sha256=audition.checkpoint.sha256,
        utterances=len(audition.utterances),
        cer=float(audition.before.cer),
        goal=goal,
        reference=stand.scales.reference.weight,
        cpu=stand.scales.reference.cpu,
        candidates=candidates,
        verified=tuple(verified),
        chosen=None if chosen is None else chosen.number,
        why=search_text.why(chosen, order, verified, candidates, goal),
    )
    run.write_json(RESULT, strict_json.to_json(result))
    # With the budgets, which the directory's name leaves out; an URL may hold a password.
    told = replace(recipe, search=replace(recipe.search, storage=""))
    run.update(recipe=told.to_dict(), status=MEASURED, finished=time.time())
    return SearchOutcome(
        run=run,
        result=result,
        chosen=None if chosen is None else stand.run_of(chosen.choice),
        failure=None if chosen is not None else _failure(result),
        report=report_on(run, write_search_report, audition.console),
    )


def _verify(run: Run, item: Candidate, recipe: Recipe, stand: Stand) -> Verification:
    """The gate's word on a candidate: the stages that its run has not had, with the gate's speech.

    The bundle that would ship is weighed once more where it is more than was weighed before.
    """
    checkpoint, console = stand.audition.checkpoint, stand.audition.console
    console.say(f"candidate {item.number} before the gate")
    own, limit = stand.run_of(item.choice), recipe.search.max_size_mb
    known = run.path / _GATE
    known.mkdir(exist_ok=True)
    share_before(known, own.path)
    try:
        outcome = compress(item.kind, stand.space.recipe_of(item.choice), checkpoint, console)
        assert outcome is not None  # this process leads: it is the only one
        share_before(own.path, known)
        if outcome.failure is not None:
            return Verification(number=item.number, passed=False, reason=str(outcome.failure))
        if recipe.streaming.wanted and limit and (size_mb := _shipped_mb(outcome.run)) > limit:
            reason = f"size {size_mb:.4g} MB with the streaming graph, at most {limit:.4g}"
            return Verification(number=item.number, passed=False, reason=reason)
    except AsrCompressError as error:
        return Verification(number=item.number, passed=False, reason=str(error))
    return Verification(number=item.number, passed=True, reason=outcome.verdict.reason)


def _shipped_mb(run: Run) -> float:
    with tempfile.TemporaryDirectory(prefix="asrcompress-") as folder:
        return ship_run(run, Path(folder) / "bundle").size_bytes / 1e6


def _failure(result: SearchResult) -> SearchFailed:
    hint = "a wider [search] space, more --trials, or more room (--max-cer-increase, budgets)"
    if result.verified:
        hint = "a larger data.dev to choose by, or --gate-tries; report the gate's looks honestly"
    text = search_text.failure(result.candidates, result.verified, result.goal)
    return SearchFailed(text, hint=hint)
