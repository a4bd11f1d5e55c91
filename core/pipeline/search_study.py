"""The trials of a search in Optuna's database: many processes, resumed at will, none done twice.

A trial claims its run directory, which is a digest of all that decides the result, so two trials
with one outcome are one trial. Claims are made under a lock of this machine's; processes on other
machines, which it does not bind, could at worst measure the same candidate twice.

A process that dies leaves a trial that says RUNNING for ever. On the same machine its process id
tells, elsewhere its heartbeat; either way the trial is failed, and its choice is the next to be
tried. What the optimiser asks depends on the trials so far and the seed, and on nothing else.
"""

from __future__ import annotations

import os
import random
import socket
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrcompress import strict_json
from asrcompress.errors import AsrCompressError, BadRecipe, BadRun, MissingExtra
from asrcompress.files import held
from asrcompress.pareto import misses
from asrcompress.pipeline.footprint import Reference
from asrcompress.pipeline.search_space import Space
from asrcompress.search import FAILED, MEASURED, Candidate, Choice, Goal

# Seconds between signs of life, and without one until a trial counts as dead.
_HEARTBEAT_S, _GRACE_S = 10, 60
_LOCK_WAIT_S = 60.0  # for another process's write to SQLite
_STARTUP_TRIALS = 8  # random ones, baselines included, before the model of the space is used
_DEATHS = 3  # of its process, after which a choice is left alone: it may be what kills them
# User attributes of a trial.
_RUN, _CANDIDATE, _PROCESS, _INTERRUPTED = "run", "candidate", "process", "interrupted"
_REFERENCE = "reference"  # of the study

Measure = Callable[[int, Choice], Candidate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """The trials of one search.

    Attributes:
        run_name: of the run directory that a choice leads to.
        lock: file that processes of this machine take turns with.
        optuna, study: the module, and its own study.
    """

    space: Space
    goal: Goal
    run_name: Callable[[Choice], str]
    lock: Path
    seed: int
    optuna: Any
    study: Any

    def reference(self, measure: Callable[[], Reference]) -> Reference:
        """What the first process measured of the checkpoint; measured now if this is the first."""
        with held(self.lock), _database():
            known = self.study.user_attrs.get(_REFERENCE)
            if known is None:
                measured = measure()
                self.study.set_user_attr(_REFERENCE, strict_json.to_json(measured))
                return measured
        return strict_json.from_json(Reference, known, item="reference", error=BadRun)

    def explore(self, measure: Measure, trials: int) -> bool:
        """Try one more candidate.

        Args:
            measure: makes the candidate of a trial's number and choice.
            trials: how many there may be, those of other processes counted.
        Returns:
            whether there was one left to try.
        Raises:
            BadRun: the database fails.
        """
        with ExitStack() as lock, _database():
            lock.enter_context(held(self.lock))
            self._bury()
            claims = self._claims()
            if len(claims) >= min(trials, len(self.space.choices())):
                return False
            if not self._try(self._owed(claims), measure, lock):
                # The optimiser asked for what is known; the lock is still held.
                fresh = [c for c in self.space.choices() if self.run_name(c) not in claims]
                chosen = random.Random(f"{self.seed} {len(claims)}").choice(fresh)
                self._try(chosen, measure, lock)
        return True

    def busy(self) -> bool:
        """Whether another process is at a trial; one that is dead is not."""
        with held(self.lock), _database():
            self._bury()
            return bool(self._trials(self.optuna.trial.TrialState.RUNNING))

    def candidates(self) -> tuple[Candidate, ...]:
        """Every finished trial, in order; of twins from several machines the first."""
        found: dict[str, Candidate] = {}
        with _database():
            trials = self._trials()
        for trial in trials:
            tree = trial.user_attrs.get(_CANDIDATE)
            if tree is not None:
                item = strict_json.from_json(
                    Candidate, tree, item=f"trial {trial.number}", error=BadRun
                )
                known = found.get(item.run)
                if known is None or known.state == FAILED:
                    found[item.run] = item
        return tuple(sorted(found.values(), key=lambda item: item.number))

    def _try(self, wanted: Choice | None, measure: Measure, lock: ExitStack) -> bool:
        """A trial of `wanted`, or of what the optimiser asks for; False if that is no news.

        Args:
            lock: held, and let go of once the trial has claimed its run.
        """
        if wanted is not None:
            self.study.enqueue_trial(self.space.parameters(wanted))
        done = False

        def objective(trial: Any) -> tuple[float, float, float]:
            nonlocal done
            choice = self.space.suggest(trial)
            name = self.run_name(choice)
            if name in self._claims():
                raise _Known(name)
            me = os.getpid()
            trial.set_user_attr(_PROCESS, [socket.gethostname(), me, _started(me)])
            trial.set_user_attr(_RUN, name)
            lock.close()
            done = True
            try:
                return self._values(trial, choice, measure)
            except KeyboardInterrupt:
                trial.set_user_attr(_INTERRUPTED, True)
                raise

        self.study.sampler = self.optuna.samplers.TPESampler(
            seed=self.seed + len(self._trials()),
            multivariate=True,
            n_startup_trials=_STARTUP_TRIALS,
        )
        # A trial that ends in one of our errors is a failed candidate, not a failed search.
        self.study.optimize(objective, n_trials=1, catch=(AsrCompressError, _Known))
        return done

    def _values(self, trial: Any, choice: Choice, measure: Measure) -> tuple[float, float, float]:
        """Bound of the CER increase, megabytes, real-time factor."""
        try:
            found = measure(trial.number, choice)
        except AsrCompressError as error:
            failed = Candidate(
                number=trial.number,
                run=self.run_name(choice),
                state=FAILED,
                choice=choice,
                note=str(error),
            )
            trial.set_user_attr(_CANDIDATE, strict_json.to_json(failed))
            raise
        for miss in misses(found, self.goal):
            # What keeps a limit need not be told: above 0 is what the sampler keeps away from.
            trial.set_constraint(miss.name, miss.excess)
        trial.set_user_attr(_CANDIDATE, strict_json.to_json(found))
        upper = None if found.heard is None else found.heard.upper
        if found.state != MEASURED or found.weight is None or upper is None:
            raise self.optuna.TrialPruned(found.note)
        return upper, found.weight.size_mb, found.weight.rtf

    def _claims(self) -> set[str]:
        """Run directories that a trial is at or is done with."""
        states = self.optuna.trial.TrialState
        found, deaths = set[str](), Counter[str]()
        for trial in self._trials(states.RUNNING, states.COMPLETE, states.PRUNED, states.FAIL):
            name = trial.user_attrs.get(_RUN)
            # What failed with an error would fail again; what was only interrupted would not.
            if name and (trial.state != states.FAIL or _CANDIDATE in trial.user_attrs):
                found.add(name)
            elif name and _INTERRUPTED not in trial.user_attrs:
                deaths[name] += 1
        return found | {name for name, count in deaths.items() if count >= _DEATHS}

    def _owed(self, claims: set[str]) -> Choice | None:
        """What was begun and not finished, then what comes before any guess."""
        begun = {
            trial.user_attrs[_RUN]
            for trial in self._trials(self.optuna.trial.TrialState.FAIL)
            if _RUN in trial.user_attrs
        }
        unfinished = begun - claims
        again = [c for c in self.space.choices() if self.run_name(c) in unfinished]
        first = [c for c in self.space.baselines() if self.run_name(c) not in claims]
        return next(iter([*again, *first]), None)

    def _bury(self) -> None:
        """Fail the trials of processes that are gone."""
        states = self.optuna.trial.TrialState
        self.optuna.storages.fail_stale_trials(self.study)
        for trial in self._trials(states.RUNNING):
            if _is_dead(trial.user_attrs.get(_PROCESS)):
                self.study.tell(trial.number, state=states.FAIL, skip_if_finished=True)

    def _trials(self, *states: Any) -> list[Any]:
        found: list[Any] = self.study.get_trials(deepcopy=False, states=states or None)
        return found


class _Known(Exception):
    """A trial that would try what another one does."""


def open_study(
    name: str,
    space: Space,
    goal: Goal,
    *,
    storage: str,
    lock: Path,
    run_name: Callable[[Choice], str],
    seed: int,
) -> Study:
    """The study of this name, made if it is not there.

    Args:
        storage: SQLAlchemy's URL of the database.
        lock: see `Study`.
    Raises:
        MissingExtra, BadRecipe: Optuna is not installed, the database cannot be opened.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra(error.name or "optuna", "search") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with held(lock), _database():
            study = optuna.create_study(
                storage=_storage(storage),
                study_name=name,
                directions=["minimize"] * 3,  # what `_values` gives
                load_if_exists=True,
            )
    except (BadRun, ImportError, ValueError) as error:
        raise BadRecipe(
            f"search.storage: cannot be opened, {error}",
            hint="a URL such as sqlite:///trials.db or postgresql://user@host/name; the driver of "
            "a database server is a package of its own",
        ) from error
    return Study(
        space=space, goal=goal, run_name=run_name, lock=lock, seed=seed, optuna=optuna, study=study
    )


def _storage(url: str) -> Any:
    from optuna.storages import RDBStorage

    wait = {"connect_args": {"timeout": _LOCK_WAIT_S}} if url.startswith("sqlite") else None
    return RDBStorage(
        url, engine_kwargs=wait, heartbeat_interval=_HEARTBEAT_S, grace_period=_GRACE_S
    )


@contextmanager
def _database() -> Iterator[None]:
    """Optuna without its warnings of what it calls experimental, such as heartbeats.

    Raises:
        BadRun: in place of the database's own errors.
    """
    from optuna.exceptions import ExperimentalWarning, StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            yield
        except (SQLAlchemyError, StorageInternalError) as error:
            # The first line: the others are the statement, and a link.
            raise BadRun(f"database of the trials: {str(error).splitlines()[0]}") from error


def _is_dead(process: Any) -> bool:
    """Whether a process of this machine is gone; of another machine's only its heartbeat tells."""
    if not process or process[0] != socket.gethostname():
        return False
    return _started(int(process[1])) != str(process[2])


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty where there is none of this id.

    A process id alone may be somebody else's by now.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
