"""What ``bundle.json`` says of a bundle for Paddle Lite: one file per length of audio."""

from __future__ import annotations

from dataclasses import dataclass

from asrcompress.errors import BadBundle

HARDWARE = ("arm", "x86")
KINDS = ("u2", "deepspeech2")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteBucket:
    """The network for one length.

    Attributes:
        file: name of the ``.nb`` file.
        frames: feature frames that it takes, shorter audio padded with zeros.
        outputs: output frames that it gives.
        kernels: how often each multiplying or converting kernel is in the file, by Paddle Lite's
            name, ``operator/alias/target/precision/layout``; precision 2 is int8, 1 float32.
    """

    file: str
    frames: int
    outputs: int
    kernels: dict[str, int]

    def __post_init__(self) -> None:
        if not 1 <= self.outputs <= self.frames:
            _refuse(f"{self.file}.outputs", self.outputs, f"1 to {self.frames}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteModel:
    """All lengths, and what is known of them.

    Attributes:
        kind: what the inputs behind the features mean: of ``u2`` the mask of the output frames, of
            ``deepspeech2`` the states of the recurrent layers.
        hardware: what the kernels are for, ``arm`` or ``x86``.
        version: of Paddle Lite.
        buckets: in order of length.
        weight_share: share of the weights' multiply-accumulates in integer kernels.
        executed: whether these files were run in Paddle Lite's predictor before they were written;
            otherwise they were only converted, and `reference` was run in their place.
        reference: what the files were compared with, or what stands for them in the gate.
        relative_error: largest difference of a log-probability from the reference, over the
            largest log-probability; None where nothing was executed.
    """

    kind: str
    hardware: str
    version: str
    buckets: tuple[LiteBucket, ...]
    weight_share: float
    executed: bool
    reference: str
    relative_error: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            _refuse("kind", self.kind, " or ".join(KINDS))
        if self.hardware not in HARDWARE:
            _refuse("hardware", self.hardware, " or ".join(HARDWARE))
        lengths = [bucket.frames for bucket in self.buckets]
        if not lengths or lengths != sorted(set(lengths)):
            _refuse("buckets", lengths, "one or more, each longer than the one before")
        if not 0 <= self.weight_share <= 1:
            _refuse("weight_share", self.weight_share, "0 to 1")

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the ``.nb`` files."""
        return tuple(bucket.file for bucket in self.buckets)


def _refuse(key: str, seen: object, allowed: object) -> None:
    raise BadBundle(f"lite.{key} is not allowed, got {seen}, expected {allowed}")
