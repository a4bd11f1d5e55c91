"""The recipe: every setting of a run, from ``asrcompress.toml`` and the command line.

The file is found as other tools find theirs: ``asrcompress.toml`` in the current folder or the
nearest one above. Paths in it are relative to the file. A flag wins over the file, the file over
the default. Unknown keys are refused, so that a misspelt setting is never silently ignored.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from asrcompress.errors import BadRecipe
from asrcompress.targets import NAMES as TARGET_NAMES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

T = TypeVar("T")
FILE_NAME = "asrcompress.toml"
OBSERVERS = ("min_max", "moving_average", "percentile", "mse")
_TYPES = {
    Path: "a path",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    tuple: "a list of texts",
}
MEASURES = ("parameters", "macs")
CRITERIA = ("l1", "l2", "fpgm", "taylor")
DECODING_METHODS = ("greedy", "prefix_beam", "rescoring", "attention")
RANGE_UPDATES = ("frozen", "moving_average", "learned")


def setting(
    default: Any,
    help: str,
    *,
    low: Any = None,
    high: Any = None,
    one_of: tuple[str, ...] = (),
    flag: str = "",
) -> Any:
    """A dataclass field with its documentation, its allowed values, and its command-line flag.

    Args:
        flag: where it is not the field's own name.
    """
    metadata = {"help": help, "low": low, "high": high, "one_of": one_of, "flag": flag}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What to compress."""

    path: Path | None = setting(None, "PaddleSpeech experiment folder", flag="checkpoint")
    config: Path | None = setting(None, "the network's YAML, where the folder has several")
    weights: Path | None = setting(None, "the .pdparams file, where the folder has several")


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Manifests of speech."""

    train: Path | None = setting(None, "manifest to train on", flag="train-manifest")
    calibration: Path | None = setting(
        None, "manifest to calibrate on; default: the training one", flag="calibration-manifest"
    )
    dev: Path | None = setting(
        None,
        "manifest to stop the training of a pruned model by; never the gate's",
        flag="dev-manifest",
    )
    gate: Path | None = setting(
        None, "manifest that the CER gate is measured on", flag="gate-manifest"
    )
    calibration_utterances: int = setting(200, "utterances to calibrate on", low=1, high=100_000)
    train_utterances: int = setting(
        0, "train on N utterances, spread over the manifest; 0: all", low=0
    )
    max_duration_s: float = setting(20.0, "skip training utterances longer than this", low=0.1)
    allow_shared_speakers: bool = setting(False, "let gate and training data share speakers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune:
    """Structured pruning in front of quantization; off while nothing is to be removed."""

    amount: float = setting(
        0.0,
        "share of the encoder to remove, in units of measure; 0: none",
        low=0.0,
        high=0.95,
        flag="prune-amount",
    )
    drop_blocks: int = setting(
        0, "whole encoder blocks to remove, part of the amount", low=0, flag="prune-drop-blocks"
    )
    max_size_mb: float = setting(
        0.0,
        "remove as much as this INT8 size needs, instead of amount; 0: amount decides",
        low=0.0,
        flag="prune-max-size-mb",
    )
    measure: str = setting(
        "parameters", "what amount is a share of", one_of=MEASURES, flag="prune-measure"
    )
    criterion: str = setting(
        "taylor", "how units are ranked", one_of=CRITERIA, flag="prune-criterion"
    )
    batches: int = setting(
        40, "batches that Taylor's criterion looks at", low=1, flag="prune-batches"
    )
    uniform: bool = setting(False, "remove the same share from every layer", flag="prune-uniform")
    step: int = setting(
        16, "feed-forward units and channels go in multiples of this", low=1, flag="prune-step"
    )
    keep: float = setting(
        0.1, "least share of every layer that stays", low=0.0, high=1.0, flag="prune-keep"
    )
    epochs: int = setting(
        10, "passes over the training manifest to recover", low=0, high=10_000, flag="prune-epochs"
    )
    learning_rate: float = setting(
        5e-4, "peak learning rate of the recovery", flag="prune-learning-rate", low=1e-8, high=1.0
    )
    hidden_distillation: float = setting(
        1.0, "weight of the distance between hidden states", flag="prune-hidden-distillation", low=0
    )
    patience: int = setting(
        3,
        "epochs without a better CER on data.dev before the recovery stops",
        low=1,
        flag="prune-patience",
    )

    @property
    def wanted(self) -> bool:
        """Whether there is anything to prune."""
        return self.amount > 0 or self.drop_blocks > 0 or self.max_size_mb > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """Where the int8 grids come from."""

    observer: str = setting("mse", "how calibration picks activation ranges", one_of=OBSERVERS)
    percentile: float = setting(
        0.9999, "share of values inside the range (observer percentile)", low=0.5, high=1.0
    )
    range_update: str = setting(
        "learned", "how activation ranges move while training", one_of=RANGE_UPDATES
    )
    momentum: float = setting(0.95, "weight of the past in moving averages", low=0.0, high=0.9999)
    skip: tuple[str, ...] = setting((), "layers left in float, as shell patterns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Quantization-aware fine-tuning."""

    epochs: int = setting(3, "passes over the training manifest; 0 is PTQ", low=0, high=10_000)
    learning_rate: float = setting(1e-4, "peak learning rate of AdamW", low=1e-8, high=1.0)
    warmup_steps: int = setting(50, "optimizer steps to reach the peak", low=0)
    batch_frames: int = setting(6000, "feature frames per batch, padding included", low=100)
    accumulate: int = setting(1, "batches per optimizer step", low=1, high=10_000)
    gradient_clip: float = setting(5.0, "largest global gradient norm", low=1e-6)
    weight_decay: float = setting(1e-4, "AdamW's weight decay", low=0.0, high=1.0)
    distillation: float = setting(
        0.5, "share of the loss that imitates the FP32 teacher; 0: off", low=0.0, high=1.0
    )
    temperature: float = setting(1.0, "softmax temperature of distillation", low=0.1, high=100.0)
    hidden_distillation: float = setting(
        0.0, "weight of the distance between student's and teacher's hidden states", low=0.0
    )
    spec_augment: bool = setting(True, "mask features as the checkpoint's preprocess.yaml says")
    seed: int = setting(0, "seed of data order, dropout and masks", low=0, high=2**31 - 1)
    device: str = setting("cpu", "cpu, or gpu:N")
    amp: bool = setting(False, "automatic mixed precision, float16; on a GPU only")
    save_every_s: float = setting(120.0, "seconds between saves of the training state", low=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How log-probabilities become text; what the CER gate measures with, before and after."""

    method: str = setting(
        "greedy",
        "greedy and prefix_beam need CTC only; rescoring and attention ship the attention decoder",
        one_of=DECODING_METHODS,
        flag="decoding",
    )
    beam: int = setting(10, "hypotheses of every method but greedy", low=1, high=1000)
    ctc_weight: float = setting(
        0.5, "weight of CTC's score beside the decoder's (rescoring)", low=0.0, high=1000.0
    )
    reverse_weight: float = setting(
        0.0,
        "share of U2++'s right-to-left decoder in rescoring; 0: not used, not shipped",
        low=0.0,
        high=1.0,
    )

    @property
    def uses_decoder(self) -> bool:
        """Whether the attention decoder takes part."""
        return self.method in ("rescoring", "attention")

    @property
    def uses_reverse(self) -> bool:
        """Whether the right-to-left decoder takes part."""
        return self.method == "rescoring" and self.reverse_weight > 0


GREEDY = Decoding()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What a compressed model must hold to be shipped."""

    max_cer_increase: float = setting(
        0.005, "largest CER increase, upper 95 % bound (0.005 = half a point)", low=0.0, high=1.0
    )
    relative: bool = setting(False, "max_cer_increase is relative to the CER before")
    min_integer_share: float = setting(
        0.95, "least share of multiply-accumulates in integer kernels", low=0.0, high=1.0
    )
    draws: int = setting(10_000, "bootstrap draws", low=100, high=1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """Recognition while somebody speaks, for checkpoints that were trained for it."""

    chunk_size: int = setting(
        0, "output frames per chunk of a streaming model; 0: whole utterances only", low=0, high=256
    )
    left_chunks: int = setting(
        -1, "chunks of history that attention sees; -1: all", low=-1, high=10_000
    )

    @property
    def wanted(self) -> bool:
        """Whether a streaming graph is to be made, measured and shipped."""
        return self.chunk_size > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What is written."""

    target: str = setting(
        "int8", "contract of the place that the model is shipped to", one_of=TARGET_NAMES
    )
    opset: int = setting(17, "ONNX opset", low=13, high=17)
    max_seconds: float = setting(60.0, "longest audio that the graph accepts", low=1.0, high=190.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All settings, grouped as the tables of ``asrcompress.toml``."""

    checkpoint: Source = field(default_factory=Source)
    data: Data = field(default_factory=Data)
    prune: Prune = field(default_factory=Prune)
    quantization: Quantization = field(default_factory=Quantization)
    training: Training = field(default_factory=Training)
    decoding: Decoding = field(default_factory=Decoding)
    gate: Gate = field(default_factory=Gate)
    streaming: Streaming = field(default_factory=Streaming)
    export: Export = field(default_factory=Export)
    runs: Path = setting(Path("runs"), "folder of run directories")

    def __post_init__(self) -> None:
        for table in fields(self):
            value = getattr(self, table.name)
            if dataclasses.is_dataclass(value):
                check_settings(table.name, value)
        device = self.training.device
        if device != "cpu" and not (device.startswith("gpu:") and device[4:].isdecimal()):
            raise BadRecipe(f"training.device: got {device!r}, expected cpu or gpu:N")
        if self.training.amp and device == "cpu":
            # Paddle's auto_cast does nothing on a CPU and only warns.
            raise BadRecipe("training.amp: got true with device cpu, expected a GPU")

    def to_dict(self) -> dict[str, Any]:
        """Plain data: tables of scalars, paths as strings, unset values left out."""
        return {name: value for name, value in _plain(self).items() if value not in (None, {})}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, source: str, folder: Path) -> Recipe:
        """Recipe from tables as TOML gives them.

        Args:
            source: what to call the data in messages.
            folder: what relative paths are relative to.
        Raises:
            BadRecipe: names every key that is unknown or of the wrong type.
        """
        problems: list[str] = []
        recipe = _parse(cls, data, prefix="", folder=folder, problems=problems)
        if problems:
            raise BadRecipe(f"{source}: " + "; ".join(problems))
        try:
            return cls(**recipe)
        except BadRecipe as error:
            raise BadRecipe(f"{source}: {error}", hint=error.hint) from None


def check_settings(table: str, settings: T) -> T:
    """One table of a recipe, or a part of it that did not come from a file.

    Raises:
        BadRecipe: a value that is not allowed.
    """
    for item in fields(settings):  # type: ignore[arg-type]
        _check(f"{table}.{item.name}", getattr(settings, item.name), item.metadata)
    return settings


def find_recipe(start: Path) -> Path | None:
    """``asrcompress.toml`` in `start` or the nearest folder above it."""
    for folder in (start.resolve(), *start.resolve().parents):
        # os.path, because pathlib raises where a folder may not be entered.
        if os.path.isfile(folder / FILE_NAME):
            return folder / FILE_NAME
    return None


def read_recipe(path: Path) -> Recipe:
    """Recipe from a TOML file.

    Raises:
        BadRecipe: not readable, not TOML, unknown keys, wrong types, values out of range.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRecipe(f"{path}: cannot be read, {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise BadRecipe(f"{path}: is not TOML, {reason}") from error
    # Runs lie beside the recipe, wherever the command is given.
    data = {"runs": "runs", **data}
    return Recipe.from_dict(data, source=str(path), folder=path.absolute().parent)


def override(recipe: Recipe, values: Mapping[tuple[str, str], Any]) -> Recipe:
    """`recipe` with other values, by (table, setting); the table is "" for what has none."""
    changes: dict[str, Any] = {}
    for (table, name), value in values.items():
        if not table:
            changes[name] = value
        else:
            current = changes.get(table, getattr(recipe, table))
            changes[table] = dataclasses.replace(current, **{name: value})
    return dataclasses.replace(recipe, **changes)


def settings_of(kind: type) -> dict[tuple[str, str], dataclasses.Field[Any]]:
    """Every setting of a recipe by (table, name), with its field."""
    found: dict[tuple[str, str], dataclasses.Field[Any]] = {}
    types_by_name = typing.get_type_hints(kind)
    for item in fields(kind):
        inner = types_by_name[item.name]
        if dataclasses.is_dataclass(inner):
            found |= {(item.name, each.name): each for each in fields(inner)}
        else:
            found["", item.name] = item
    return found


def format_toml(recipe: Recipe) -> str:
    """`recipe` as a commented TOML file; settings at their default are commented out."""
    lines = [f"runs = {_toml(recipe.runs)}  # folder of run directories"]
    for table in fields(recipe):
        value = getattr(recipe, table.name)
        if not dataclasses.is_dataclass(value):
            continue
        lines += ["", f"[{table.name}]"]
        for item in fields(value):
            current = getattr(value, item.name)
            shown = "" if current is None else _toml(current)
            prefix = "# " if current == item.default else ""
            lines.append(f"{prefix}{item.name} = {shown or '...'}  # {item.metadata['help']}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str | Path):
        try:
            str(value).encode("utf-8")
        except UnicodeEncodeError as error:  # a file name of another encoding
            raise BadRecipe(f"{str(value)!r}: is not UTF-8, expected a name that is") from error
        # JSON escapes what TOML does, and leaves out only the DEL character.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)


def _check(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    low, high, one_of = metadata.get("low"), metadata.get("high"), metadata.get("one_of")
    if one_of and value not in one_of:
        raise BadRecipe(f"{name}: got {value!r}, expected one of {', '.join(one_of)}")
    # Written so that NaN, which compares false with everything, is refused.
    if low is not None and not value >= low:
        raise BadRecipe(f"{name}: got {value}, expected at least {low}")
    if high is not None and not value <= high:
        raise BadRecipe(f"{name}: got {value}, expected at most {high}")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        items = {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
        return {key: item for key, item in items.items() if item is not None}
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _parse(
    kind: type, data: Mapping[str, Any], *, prefix: str, folder: Path, problems: list[str]
) -> dict[str, Any]:
    types_by_name = typing.get_type_hints(kind)
    parsed: dict[str, Any] = {}
    for key, value in data.items():
        name = prefix + key
        wanted = types_by_name.get(key)
        if wanted is None:
            problems.append(f"{name} is not a setting, expected one of {', '.join(types_by_name)}")
        elif isinstance(wanted, type) and dataclasses.is_dataclass(wanted):
            if isinstance(value, Mapping):
                inner = _parse(wanted, value, prefix=f"{name}.", folder=folder, problems=problems)
                parsed[key] = wanted(**inner)
            else:
                problems.append(f"{name} is {value!r}, expected a table")
        else:
            parsed[key] = _convert(name, value, wanted, folder=folder, problems=problems)
    return parsed


def _convert(name: str, value: Any, wanted: Any, *, folder: Path, problems: list[str]) -> Any:
    """`value` as the field's type, or a problem added."""
    if isinstance(wanted, types.UnionType):  # Path | None
        wanted = next(item for item in typing.get_args(wanted) if item is not type(None))
    if wanted is Path and isinstance(value, str) and value and "\0" not in value:
        return folder / value
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if wanted is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if wanted in (bool, str) and type(value) is wanted:
        return value
    is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
    if typing.get_origin(wanted) is tuple and is_list:
        return tuple(value)
    label = _TYPES[typing.get_origin(wanted) or wanted]
    problems.append(f"{name} is {value!r}, expected {label}")
    return None
