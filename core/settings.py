"""Every setting there is, one dataclass per table of ``asrcompress.toml``.

A field carries its default, its help, what is allowed and its flag; the file, the command line and
the reference page are all made from that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asrcompress.errors import BadRecipe
from asrcompress.setting import setting
from asrcompress.targets import NAMES as TARGET_NAMES

OBSERVERS = ("min_max", "moving_average", "percentile", "mse")
MEASURES = ("parameters", "macs")
CRITERIA = ("l1", "l2", "fpgm", "taylor")
SPARSE_PATTERNS = ("unstructured", "1xN", "2:4")
PATTERNS = ("structured", *SPARSE_PATTERNS)
PRECISIONS = ("fp32", "int8")
RANGE_UPDATES = ("frozen", "moving_average", "learned")

_BUDGETS = ("max_size_mb", "max_gmacs", "max_rtf")


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
        "manifest to decide by: when a pruned model's training stops, how sensitive layers are; "
        "never the gate's",
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
    """Pruning in front of quantization; off while nothing is to be removed."""

    pattern: str = setting(
        "structured",
        "structured makes tensors smaller; the others set weights to zero, see docs/pruning.md",
        one_of=PATTERNS,
        flag="prune-pattern",
    )
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
        "remove as much as this INT8 size needs, instead of amount; 0: no such budget",
        low=0.0,
        flag="prune-max-size-mb",
    )
    max_gmacs: float = setting(
        0.0,
        "remove until the encoder takes this many billion multiply-accumulates for "
        "budget_seconds of audio; 0: no such budget",
        low=0.0,
        flag="prune-max-gmacs",
    )
    max_rtf: float = setting(
        0.0,
        "remove until the exported network, measured here on one thread, takes this share of the "
        "audio's duration; 0: no such budget",
        low=0.0,
        high=100.0,
        flag="prune-max-rtf",
    )
    budget_seconds: float = setting(
        10.0,
        "length of the audio that max_gmacs, max_rtf and measure count for",
        low=1.0,
        high=60.0,
        flag="prune-budget-seconds",
    )
    budget_precision: str = setting(
        "int8", "form that max_rtf is measured in", one_of=PRECISIONS, flag="prune-budget-precision"
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
    sensitivity: Path | None = setting(
        None,
        "sensitivity.json, whose curves say how much goes from which layer",
        flag="prune-sensitivity",
    )

    sparsity: float = setting(
        0.5,
        "share of zeros in the encoder's weights, of every pattern but structured",
        low=0.01,
        high=0.99,
        flag="prune-sparsity",
    )
    block: int = setting(
        4, "N of pattern 1xN: neighbouring outputs that go together", low=2, flag="prune-block"
    )
    rising_share: float = setting(
        0.5,
        "share of the recovery during which zeros get more (gradual magnitude pruning)",
        low=0.0,
        high=0.9,
        flag="prune-rising-share",
    )
    rising_steps: int = setting(
        20, "times that they get more, at most", low=1, flag="prune-rising-steps"
    )
    rising_start: float = setting(
        0.3, "share of the sparsity to start with", low=0.0, high=1.0, flag="prune-rising-start"
    )

    def __post_init__(self) -> None:
        asked = [name for name in ("amount", *_BUDGETS) if getattr(self, name)]
        if len(asked) > 1:
            raise BadRecipe(f"prune: got {' and '.join(asked)}, expected one of them")
        asked += [name for name in ("drop_blocks", "sensitivity") if getattr(self, name)]
        if not self.structured and asked:
            raise BadRecipe(
                f"prune.{asked[0]}: is set with pattern {self.pattern}, "
                "expected prune.sparsity alone",
                hint="make tensors smaller first (asrcompress prune), then prune the result",
            )
        if self.pattern == "2:4" and self.sparsity != 0.5:
            raise BadRecipe(f"prune.sparsity: got {self.sparsity}, expected 0.5 for 2:4")

    @property
    def structured(self) -> bool:
        """Whether tensors get smaller, as opposed to zeros inside of them."""
        return self.pattern == "structured"

    @property
    def budget(self) -> str:
        """The budget that decides how much to remove; empty where `amount` does."""
        return next((name for name in _BUDGETS if getattr(self, name)), "")

    @property
    def wanted(self) -> bool:
        """Whether there is anything to prune."""
        return not self.structured or self.amount > 0 or self.drop_blocks > 0 or bool(self.budget)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """What a measurement of sensitivity tries, and on how much of data.dev."""

    utterances: int = setting(
        100,
        "measure on N utterances, spread over data.dev",
        low=1,
        flag="sensitivity-utterances",
    )
    ratios: tuple[float, ...] = setting(
        (0.25, 0.5, 0.75, 0.9),
        "shares of heads, units and channels that pruning is tried with",
        low=0.01,
        high=0.95,
        flag="sensitivity-ratios",
    )


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
    integer_swish: bool = setting(
        True, "Swish on integers too: faster, its input and its gate rounded to 8 bits as well"
    )
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
    cache_mb: int = setting(
        1024, "megabytes of features kept in memory from epoch to epoch; 0: none", low=0
    )
    threads: int = setting(
        0, "threads on a CPU; 0: one per core, or what OMP_NUM_THREADS says", low=0, high=1024
    )


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
    operators: str = setting(
        "onnxruntime",
        "spelling of integer work: ONNX Runtime's own operators, which are faster, or the standard "
        "QDQ pairs for other runtimes",
        one_of=("onnxruntime", "qdq"),
    )
    opset: int = setting(17, "ONNX opset", low=13, high=17)
    max_seconds: float = setting(60.0, "longest audio that the graph accepts", low=1.0, high=190.0)
