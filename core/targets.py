"""Target contracts: what each place that a model is shipped to does with integers.

One table, read before training starts (`check_target`), while training (the grid of the weights),
at export, and by the runtime. What a column means:

* ``weight_top``: largest code of a weight. 127 is the full int8 grid; 63 is 7 bits, which x86
  without VNNI needs: its ``vpmaddubsw`` adds two products u8 x s8 in 16 bits and saturates at
  32767, and 2 * 255 * 127 = 64770 does not fit where 2 * 255 * 63 = 32130 does. Measured on AVX2
  with 127: log-probabilities 0.1 to 0.25 nats off.
* ``products``: whether the products of two activations in attention run in integers.
* ``recurrent``: which recurrent layers do.

docs/targets.md shows the table and where each number comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asrcompress.errors import BadRecipe

if TYPE_CHECKING:  # the recipe checks its own target by the names below
    from asrcompress.checkpoints.checkpoint import Checkpoint
    from asrcompress.recipe import Recipe

FULL_GRID, REDUCED_GRID = 127, 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One contract.

    Attributes:
        runtime: what runs the model there.
        format: what ``asrcompress export --format`` has to be.
        layers: kinds of weighted layers with an integer kernel.
        products: attention's products have an integer kernel.
        recurrent: recurrent cells with an integer kernel; the others stay float.
        granularity: weights have a scale per output ``channel`` or per ``tensor``.
        weight_top: largest code of a weight; weights are symmetric.
        activations: type of their codes; the grid is symmetric, but [0, max] after a ReLU.
        max_opset: newest ONNX opset; 0 where no ONNX graph gets there.
        batches: takes several recordings at a time.
        utterances: takes whole recordings.
        streams: families that it takes chunk by chunk.
        fixed_history: it keeps a fixed number of chunks of a stream, never all.
    """

    name: str
    runtime: str
    format: str = "onnx"
    layers: tuple[str, ...] = ("Linear", "Conv1D", "Conv2D")
    products: bool = True
    recurrent: tuple[str, ...] = ("LSTM", "GRU")
    granularity: str = "channel"
    weight_top: int = FULL_GRID
    activations: str = "uint8"
    max_opset: int = 17
    batches: bool = True
    utterances: bool = True
    streams: tuple[str, ...] = ("u2", "deepspeech2")
    fixed_history: bool = False

    @property
    def reduce_range(self) -> bool:
        """Whether weights are kept to 7 bits."""
        return self.weight_top < FULL_GRID


_ALL = (
    Target(name="ort-x86-vnni", runtime="ONNX Runtime on x86 with VNNI"),
    Target(
        name="ort-x86-avx2",
        runtime="ONNX Runtime on x86 without VNNI",
        weight_top=REDUCED_GRID,
    ),
    # MLAS widens to 32 bits on NEON, with and without the dot product instructions.
    Target(name="ort-arm64", runtime="ONNX Runtime on 64-bit ARM"),
    Target(
        name="lite-arm",
        runtime="Paddle Lite 2.13rc0 on ARM",
        format="paddle-lite",
        products=False,
        recurrent=(),
        activations="int8",
        max_opset=0,
        batches=False,
        streams=("deepspeech2",),
    ),
    # Its int8 GEMM saturates, its fc mixes up rows and columns: convolutions are what is right.
    Target(
        name="lite-x86",
        runtime="Paddle Lite 2.13rc0 on x86",
        format="paddle-lite",
        layers=("Conv1D", "Conv2D"),
        products=False,
        recurrent=(),
        weight_top=REDUCED_GRID,
        activations="int8",
        max_opset=0,
        batches=False,
        streams=("deepspeech2",),
    ),
    # sherpa-onnx gives ONNX Runtime no x64quantprecision, so the weights have to make room.
    Target(
        name="sherpa-offline",
        runtime="sherpa-onnx, whole recordings",
        format="sherpa-onnx",
        weight_top=REDUCED_GRID,
        streams=(),
    ),
    Target(
        name="sherpa-stream",
        runtime="sherpa-onnx, streams",
        format="sherpa-onnx",
        weight_top=REDUCED_GRID,
        batches=False,
        utterances=False,
        streams=("u2",),
        fixed_history=True,
    ),
)
TARGETS = {target.name: target for target in _ALL}
# The short names: int8 is the full grid, which is right wherever this project's runtime runs,
# because that one asks ONNX Runtime for exact sums.
ALIASES = {"int8": "ort-x86-vnni", "arm": "lite-arm", "x86": "lite-x86"}
NAMES = (*TARGETS, *ALIASES)


def find_target(name: str) -> Target:
    """The contract of this name or short name.

    Raises:
        BadRecipe: there is none.
    """
    target = TARGETS.get(ALIASES.get(name, name))
    if target is None:
        raise BadRecipe(f"export.target: got {name!r}, expected one of {', '.join(NAMES)}")
    return target


def needs_exact_sums(name: str) -> bool:
    """Whether a bundle for this target may overflow 16-bit sums; true where nothing is known."""
    known = TARGETS.get(name)
    return known is None or not known.reduce_range


def check_target(recipe: Recipe, checkpoint: Checkpoint) -> list[str]:
    """Hold checkpoint and recipe against the contract, before anything is trained.

    Returns:
        what will work, but not as well as one may expect; one line each.
    Raises:
        BadRecipe: what cannot work on the target.
    """
    target = find_target(recipe.export.target)
    _check_export(recipe, target)
    _check_streaming(recipe, checkpoint, target)
    warnings = []
    if checkpoint.family == "deepspeech2":
        cell = "GRU" if checkpoint.network.get("use_gru") else "LSTM"
        if cell not in target.recurrent:
            warnings.append(f"{cell} is float on {target.name}: expect 1.0x in its layers")
    elif not target.products:
        warnings.append(f"attention's products are float on {target.name}")
    if "Linear" not in target.layers:
        warnings.append(
            f"{target.name} runs {' and '.join(target.layers)} only in integers: expect little "
            "speed, or ship FP32 there"
        )
    return warnings


def _check_export(recipe: Recipe, target: Target) -> None:
    if target.max_opset and recipe.export.opset > target.max_opset:
        raise BadRecipe(
            f"export.opset: got {recipe.export.opset}, "
            f"expected at most {target.max_opset} for {target.name}"
        )
    if "Linear" not in target.layers and recipe.gate.min_integer_share > 0.5:
        raise BadRecipe(
            f"gate.min_integer_share: got {recipe.gate.min_integer_share:g}, which {target.name} "
            f"cannot reach, because only {' and '.join(target.layers)} run in integers there",
            hint="ship FP32 there (asrcompress export --precision fp32), or lower "
            "--min-integer-share on purpose",
        )


def _check_streaming(recipe: Recipe, checkpoint: Checkpoint, target: Target) -> None:
    family = checkpoint.family.partition("-")[0]
    if recipe.streaming.wanted and family not in target.streams:
        raise BadRecipe(
            f"streaming.chunk_size: got {recipe.streaming.chunk_size}, expected 0: "
            f"{target.name} takes no streams of {family}",
            hint="another target, or --chunk-size 0",
        )
    if not target.utterances and not recipe.streaming.wanted:
        raise BadRecipe(
            f"streaming.chunk_size: got 0, expected a chunk size: {target.name} takes streams only",
            hint="--chunk-size 16, or --target sherpa-offline",
        )
    if target.fixed_history and recipe.streaming.left_chunks < 1:
        raise BadRecipe(
            f"streaming.left_chunks: got {recipe.streaming.left_chunks}, expected 1 or more: "
            f"{target.name} keeps a fixed number of chunks",
            hint="--left-chunks 4",
        )
