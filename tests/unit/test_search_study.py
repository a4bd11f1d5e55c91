"""Trials in Optuna's database, with measurements that are made up: claims, resuming, processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asrcompress.errors import BadRecipe, BadSensitivity, CalibrationFailed, MissingExtra
from asrcompress.recipe import Recipe, override
from asrcompress.search import FAILED, MEASURED, Candidate, Choice, Goal, Heard, Weight

pytest.importorskip("optuna", reason="needs the [search] extra")
from asrcompress.pipeline.search_space import Space, space_of
from asrcompress.pipeline.search_study import Study, open_study

GOAL = Goal(
    max_cer_increase=0.005, relative=False, min_integer_share=0.95, max_size_mb=None,
    max_rtf=None, max_memory_mb=None, prefer="speed",
)  # fmt: skip


def make_space(**changes: Any) -> Space:
    known: dict[str, Any] = {
        "recipe": Recipe(), "observers": ("mse", "min_max"), "epochs": (0, 3),
        "prune_amounts": (0.0, 0.4), "float_layers": (0,), "layers": (),
    }  # fmt: skip
    return Space(**{**known, **changes})


def name_of(choice: Choice) -> str:
    return f"run {choice.words}"


def open_here(folder: Path, space: Space | None = None, seed: int = 0) -> Study:
    return open_study(
        "search", space or make_space(), GOAL, storage=f"sqlite:///{folder}/trials.db",
        lock=folder / "lock", run_name=name_of, seed=seed,
    )  # fmt: skip


def measured(number: int, choice: Choice) -> Candidate:
    """Training helps, pruning makes small and fast and costs CER."""
    upper = 0.004 + 0.02 * choice.prune_amount - 0.001 * choice.epochs
    heard = Heard(
        utterances=100, cer=0.05, increase=upper / 2, lower=0.0, upper=upper,
        keeps=upper <= 0.005, reason="",
    )  # fmt: skip
    size = 4.0 * (1 - choice.prune_amount)
    weight = Weight(size_mb=size, rtf=size / 400, speedup=3.0, memory_mb=90.0)
    return Candidate(
        number=number, run=name_of(choice), state=MEASURED, choice=choice, heard=heard,
        integer_share=1.0, weight=weight,
    )  # fmt: skip


def explore_all(study: Study, trials: int, measure: Callable[..., Candidate] = measured) -> None:
    while study.explore(measure, trials):
        pass


def test_baselines_come_first_and_nothing_twice(tmp_path: Path) -> None:
    study = open_here(tmp_path)
    explore_all(study, 6)
    found = [item.choice for item in study.candidates()]
    assert found[:3] == study.space.baselines()
    assert [item.epochs for item in found[:3]] == [0, 0, 3]
    assert len(found) == len(set(found)) == 6
    assert not study.busy()


def test_a_space_that_is_used_up_ends_the_search(tmp_path: Path) -> None:
    study = open_here(tmp_path)
    explore_all(study, 1000)
    assert {item.choice for item in study.candidates()} == set(study.space.choices())
    assert len(study.space.choices()) == 8


def test_what_is_asked_follows_from_the_trials_and_the_seed(tmp_path: Path) -> None:
    orders = []
    for name, stops in (("whole", [7]), ("resumed", [2, 4, 7])):
        (tmp_path / name).mkdir()
        for stop in stops:  # a new process each time
            study = open_here(tmp_path / name, seed=3)
            explore_all(study, stop)
        orders.append([item.choice for item in study.candidates()])
    assert orders[0] == orders[1]


def test_a_candidate_that_fails_is_kept_with_its_reason_and_not_tried_again(
    tmp_path: Path,
) -> None:
    def measure(number: int, choice: Choice) -> Candidate:
        if choice.prune_amount:
            raise CalibrationFailed("edge x: never observed")
        return measured(number, choice)

    study = open_here(tmp_path)
    explore_all(study, 1000, measure)
    failed = [item for item in study.candidates() if item.state == FAILED]
    assert len(failed) == 4
    assert all(item.note == "edge x: never observed" and item.weight is None for item in failed)


def test_a_bug_ends_the_search_and_is_tried_again(tmp_path: Path) -> None:
    def measure(number: int, choice: Choice) -> Candidate:
        raise KeyError("a bug")

    study = open_here(tmp_path)
    with pytest.raises(KeyError):
        study.explore(measure, 5)
    assert study.candidates() == ()
    explore_all(study, 1)
    assert [item.choice for item in study.candidates()] == study.space.baselines()[:1]


def test_interrupted_any_number_of_times_it_goes_on_with_the_same(tmp_path: Path) -> None:
    def measure(number: int, choice: Choice) -> Candidate:
        raise KeyboardInterrupt

    study = open_here(tmp_path)
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            study.explore(measure, 5)
    explore_all(study, 3)
    assert [item.choice for item in study.candidates()] == study.space.baselines()


def test_misses_are_told_to_the_sampler(tmp_path: Path) -> None:
    study = open_here(tmp_path)
    explore_all(study, 8)
    trials = {trial.number: trial for trial in study.study.get_trials()}
    for item in study.candidates():
        over = item.heard is not None and not item.heard.keeps
        assert (trials[item.number].constraints.get("CER", 0) > 0) is over
    assert any(trial.constraints for trial in trials.values())


WORKER = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_search_study as test
def measure(number, choice):
    log = Path("measured.txt").open("a")
    log.write(f"{os.getpid()} {choice.words}\\n"); log.close()
    time.sleep(float(sys.argv[3]))
    return test.measured(number, choice)
study = test.open_here(Path.cwd())
test.explore_all(study, int(sys.argv[2]), measure)
while study.busy():
    time.sleep(0.1)
print(len(study.candidates()))
"""


def start(folder: Path, trials: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(Path(__file__).parent), str(trials), str(seconds)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)


def said(folder: Path) -> list[list[str]]:
    path = folder / "measured.txt"
    return [line.split(" ", 1) for line in path.read_text().splitlines()] if path.exists() else []


def test_two_processes_share_the_trials(tmp_path: Path) -> None:
    workers = [start(tmp_path, 7, 0.3) for _ in range(2)]
    outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert outputs == ["7\n", "7\n"]  # each sees what both have done
    lines = said(tmp_path)
    assert len(lines) == len({words for _, words in lines}) == 7
    assert len({pid for pid, _ in lines}) == 2


def test_a_killed_process_leaves_its_candidate_to_the_next(tmp_path: Path) -> None:
    first = start(tmp_path, 3, 60.0)
    deadline = time.monotonic() + 60
    while not said(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    first.kill()
    first.communicate()
    second = start(tmp_path, 3, 0.0)
    assert second.communicate(timeout=120)[0] == "3\n"
    words = [words for _, words in said(tmp_path)]
    assert words[0] == words[1]  # begun again before anything else
    assert len(words) == 4


def test_what_kills_its_process_again_and_again_is_left_alone(tmp_path: Path) -> None:
    script = WORKER.replace("time.sleep(float(sys.argv[3]))", "os.kill(os.getpid(), 9)")
    command = [sys.executable, "-c", script, str(Path(__file__).parent), "9", "0"]
    for _ in range(3):
        assert subprocess.run(command, cwd=tmp_path, timeout=60).returncode == -9
    study = open_here(tmp_path)
    explore_all(study, 3)
    bad = study.space.baselines()[0]
    assert bad not in {item.choice for item in study.candidates()}
    assert len(study.candidates()) == 2


def test_a_database_that_cannot_be_opened(tmp_path: Path) -> None:
    for url in ("sqlite:////nowhere/at/all.db", "what is this", "nosuchdriver://host/name"):
        with pytest.raises(BadRecipe, match=r"search\.storage"):
            open_study(
                "search", make_space(), GOAL, storage=url, lock=tmp_path / "lock",
                run_name=name_of, seed=0,
            )  # fmt: skip


def test_without_optuna_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra) as caught:
        open_here(tmp_path)
    assert caught.value.hint == "pip install 'asrcompress[search]'"


def test_a_choice_is_a_recipe() -> None:
    recipe = override(Recipe(), {("quantization", "skip"): ("ctc.*",), ("search", "trials"): 3})
    space = make_space(recipe=recipe, float_layers=(0, 2), layers=("a", "b", "c"))
    choice = Choice(observer="min_max", epochs=3, prune_amount=0.4, float_layers=2)
    made = space.recipe_of(choice)
    assert made.quantization.observer == "min_max"
    assert made.quantization.skip == ("ctc.*", "a", "b")
    assert (made.training.epochs, made.prune.amount) == (3, 0.4)
    assert made.search == Recipe().search  # or a new budget would be a new run
    others = {space.pruning_of(c) for c in space.choices() if c.prune_amount == 0.4}
    assert len(others) == 1


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return tmp_path / "train.jsonl"


def test_the_space_is_what_the_recipe_says(train: Path) -> None:
    checkpoint: Any = None  # needed for an order of layers only
    space, notes = space_of(override(Recipe(), {("data", "train"): train}), checkpoint)
    assert space.epochs == (0, 3) and space.prune_amounts == (0.0, 0.2, 0.4)
    assert space.float_layers == (0,)
    assert any("search.sensitivity" in note for note in notes)
    bare, notes = space_of(Recipe(), checkpoint)
    assert bare.epochs == (0,) and bare.prune_amounts == (0.0,)
    assert any("neither training nor pruning" in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({("search", "observers"): ()}, "empty list"),
        ({("prune", "max_size_mb"): 3.0}, "prune_amounts"),
    ],
)
def test_a_space_that_contradicts_itself(train: Path, changes: Any, said: str) -> None:
    recipe = override(Recipe(), {("data", "train"): train, **changes})
    with pytest.raises(BadRecipe, match=said):
        space_of(recipe, None)  # type: ignore[arg-type]


def test_an_order_of_layers_is_of_these_weights(tmp_path: Path) -> None:
    from types import SimpleNamespace

    probe = {"action": "quantize", "target": "a", "ratio": 1.0}
    layers = [
        {"probe": {**probe, "target": name}, "share": 1.0, "kl": kl, "edits": 0, "cer": 0.0}
        for name, kl in (("a", 0.1), ("b", 0.3), ("c", 0.2))
    ]
    path = tmp_path / "sensitivity.json"
    path.write_text(
        json.dumps(
            {
                "checkpoint": "asr1", "checkpoint_sha256": "a" * 64, "dataset_sha256": "b" * 64,
                "utterances": 1, "frames": 1, "reference_chars": 1, "edits": 0, "cer": 0.0,
                "criterion": "l1", "results": layers, "schema_version": 1,
            }
        )
    )  # fmt: skip
    recipe = override(Recipe(), {("search", "sensitivity"): path})
    right: Any = SimpleNamespace(sha256="a" * 64)
    space, _ = space_of(recipe, right)
    assert space.layers == ("b", "c", "a")
    assert space.float_layers == (0, 1, 2, 3)  # no more than there are
    wrong: Any = SimpleNamespace(sha256="c" * 64)
    with pytest.raises(BadSensitivity, match="was measured on weights"):
        space_of(recipe, wrong)


def test_a_process_is_told_from_its_namesake() -> None:
    import socket

    from asrcompress.pipeline.search_study import _is_dead, _started

    me = [socket.gethostname(), os.getpid(), _started(os.getpid())]
    assert not _is_dead(me)
    assert _is_dead([me[0], me[1], "1"])  # the number was somebody else's before
    assert not _is_dead(["elsewhere", 1, "1"])  # its heartbeat tells
    assert not _is_dead(None)  # it has not said who it is yet
