"""Every setting there is, one dataclass per table of ``asrcompress.toml``.

A field carries its default, its help, what is allowed and its flag; the file, the command line and
the reference page are all made from that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asrcompress.targets import NAMES as TARGET_NAMES

OBSERVERS = ("min_max", "moving_average", "percentile", "mse")
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
