"""Recipes: file, flags, defaults, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
from hypothesis import given
from hypothesis import strategies as st

from asrcompress.cli.app import app
from asrcompress.errors import BadRecipe
from asrcompress.recipe import (
    FILE_NAME,
    Data,
    Gate,
    Quantization,
    Recipe,
    Source,
    Training,
    find_recipe,
    format_toml,
    override,
    read_recipe,
    settings_of,
)

SETTINGS = settings_of(Recipe)


def write(folder: Path, text: str) -> Path:
    path = folder / FILE_NAME
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    recipe = read_recipe(
        write(tmp_path, "runs = 'r'\n[checkpoint]\npath = 'asr1'\n[data]\ngate = '/abs/gate'\n")
    )
    assert recipe.runs == tmp_path / "r"
    assert recipe.checkpoint.path == tmp_path / "asr1"
    assert recipe.data.gate == Path("/abs/gate")


def test_paths_are_absolute_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a run could not find its checkpoint again from another folder."""
    write(tmp_path, "[checkpoint]\npath = 'asr1'\n")
    monkeypatch.chdir(tmp_path)
    assert read_recipe(Path(FILE_NAME)).checkpoint.path == tmp_path / "asr1"


def test_the_nearest_file_above_is_found(tmp_path: Path) -> None:
    assert find_recipe(tmp_path) is None
    path = write(tmp_path, "")
    (tmp_path / "a/b").mkdir(parents=True)
    assert find_recipe(tmp_path / "a/b") == path.resolve()
    inner = write(tmp_path / "a", "")
    assert find_recipe(tmp_path / "a/b") == inner.resolve()


def test_all_problems_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "colour = 1\n[training]\nepochs = 'x'\nsped = 2\n[gate]\nrelative = 1\n")
    with pytest.raises(BadRecipe) as caught:
        read_recipe(path)
    message = str(caught.value)
    for part in ("colour", "training.epochs", "training.sped", "gate.relative"):
        assert part in message


def test_a_flag_wins_over_the_file(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, "[training]\nepochs = 7\nseed = 3\n"))
    changed = override(recipe, {("training", "epochs"): 9, ("", "runs"): Path("/r")})
    assert (changed.training.epochs, changed.training.seed) == (9, 3)
    assert changed.runs == Path("/r") and recipe.training.epochs == 7


def test_an_override_is_checked() -> None:
    with pytest.raises(BadRecipe, match=r"training.epochs: got -1, expected at least 0"):
        override(Recipe(), {("training", "epochs"): -1})


def test_every_setting_is_documented_and_its_default_allowed() -> None:
    for (table, name), field in SETTINGS.items():
        meta = field.metadata
        assert meta["help"], name
        values = field.default if isinstance(field.default, tuple) else (field.default,)
        for value in values:
            if value is None or isinstance(value, bool):
                continue
            assert meta["low"] is None or value >= meta["low"], (table, name)
            assert meta["high"] is None or value <= meta["high"], (table, name)
            assert not meta["one_of"] or value in meta["one_of"], (table, name)


@pytest.mark.parametrize(("table", "name"), SETTINGS, ids=lambda part: part or "top")
def test_the_bounds_of_every_setting(table: str, name: str) -> None:
    """On the bound is allowed, past it and NaN are not."""
    field = SETTINGS[table, name]
    meta = field.metadata
    is_list = isinstance(field.default, tuple)
    default = field.default[0] if is_list and field.default else field.default
    one = 1 if isinstance(default, int) else 1e-9
    for bound, past in ((meta["low"], -one), (meta["high"], one)):
        if bound is None:
            continue
        value = type(default)(bound)
        override(Recipe(), {(table, name): (value,) if is_list else value})
        with pytest.raises(BadRecipe, match=f"{table}.{name}: got "):
            override(Recipe(), {(table, name): (value + past,) if is_list else value + past})
    if isinstance(default, float):
        with pytest.raises(BadRecipe, match=f"{table}.{name}: got nan"):
            nan = float("nan")
            override(Recipe(), {(table, name): (nan,) if is_list else nan})


@pytest.mark.parametrize("command", ["qat", "ptq", "export"])
def test_every_setting_has_one_flag_and_no_two_share_one(command: str) -> None:
    options = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    by_name = {option.name: option for option in options}
    for (table, name), field in SETTINGS.items():
        option = by_name[f"{table}_{name}" if table else name]
        flag = "--" + (field.metadata["flag"] or name).replace("_", "-")
        assert option.opts == [flag] and option.default is None
        is_switch = isinstance(field.default, bool)
        assert option.secondary_opts == ([f"--no-{flag[2:]}"] if is_switch else [])
        assert field.metadata["help"] in option.help
    flags = [flag for option in options for flag in (*option.opts, *option.secondary_opts)]
    assert len(flags) == len(set(flags))
    assert {"--epochs", "--checkpoint", "--gate-manifest", "--skip", "--no-relative"} <= set(flags)


def test_devices() -> None:
    for device in ("cpu", "gpu:0", "gpu:12"):
        assert Recipe(training=Training(device=device)).training.device == device
    for device in ("gpu", "gpu:", "gpu:-1", "gpu:²", "cuda:0", "CPU", ""):
        with pytest.raises(BadRecipe, match=r"training.device"):
            Recipe(training=Training(device=device))


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1)
PATHS = st.builds(lambda name: Path("/") / name, NAMES.filter(lambda n: n not in (".", "..")))
RECIPES = st.builds(
    Recipe,
    checkpoint=st.builds(Source, path=st.none() | PATHS, config=st.none() | PATHS),
    data=st.builds(Data, gate=st.none() | PATHS, calibration_utterances=st.integers(1, 100_000)),
    quantization=st.builds(
        Quantization, skip=st.lists(st.text(st.characters(exclude_categories=["Cs"]))).map(tuple)
    ),
    training=st.builds(Training, learning_rate=st.floats(1e-8, 1.0), spec_augment=st.booleans()),
    gate=st.builds(Gate, max_cer_increase=st.floats(0, 1), draws=st.integers(100, 1_000_000)),
    runs=PATHS,
)


@given(RECIPES)
def test_toml_says_the_same_recipe(
    tmp_path_factory: pytest.TempPathFactory, recipe: Recipe
) -> None:
    """Names with quotes, newlines, backslashes and control characters included."""
    path = write(tmp_path_factory.mktemp("toml"), format_toml(recipe))
    assert read_recipe(path) == recipe


@given(RECIPES)
def test_plain_data_says_the_same_recipe(recipe: Recipe) -> None:
    assert Recipe.from_dict(recipe.to_dict(), source="x", folder=Path("/")) == recipe


VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
TABLES = st.sampled_from([field.name for field in dataclasses.fields(Recipe)])
KEYS = st.sampled_from([name for _, name in SETTINGS])


@given(st.dictionaries(TABLES | st.text(max_size=3), VALUES | st.dictionaries(KEYS, VALUES)))
def test_any_data_is_a_recipe_or_refused(data: dict[str, Any]) -> None:
    try:
        recipe = Recipe.from_dict(data, source="file.toml", folder=Path("/"))
    except BadRecipe as error:
        assert str(error).startswith("file.toml: ")
    else:
        assert isinstance(recipe, Recipe)


@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))
)
def test_any_file_is_a_recipe_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "r.toml"
    path.write_bytes(content)
    try:
        read_recipe(path)
    except BadRecipe as error:
        assert str(error).startswith(f"{path}: ")


def test_a_name_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(BadRecipe, match="is not UTF-8"):
        format_toml(Recipe(runs=Path("/\udcff")))
