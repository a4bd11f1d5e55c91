"""``asrcompress verify FOLDER --with sherpa-onnx``: does the real thing hear what it should?"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrcompress.accuracy.cer import CerReport, score_all
from asrcompress.console import Console
from asrcompress.errors import BadBundle, CerGateFailed, SelfTestFailed
from asrcompress.manifests.manifest import Utterance, load_manifest
from asrcompress.pipeline.evaluation import evaluate
from asrcompress.sherpa.forms import check_computation, job_of, reference_of
from asrcompress.sherpa.process import Recording, hear_in_sherpa
from asrcompress.sherpa.record import (
    RECORD_NAME,
    TOKENS,
    WAVS,
    WENET,
    SherpaRecord,
    is_sherpa_folder,
    read_sherpa_folder,
)
from asrcompress.tokens import Vocabulary, without_marks


@dataclass(frozen=True, slots=True, kw_only=True)
class SherpaHearing:
    """What sherpa-onnx made of one model.

    Attributes:
        recordings: how many.
        same_texts: in how many its text is what was expected of it, letter by letter.
        needed: in how many it has to be, of the test recordings.
        marked: in how many sherpa-onnx prints ``<unk>`` or ``<eos>``, which counts as no text.
        ours, theirs: CER of this project's runtime and of sherpa-onnx; None without a manifest.
    """

    precision: str
    file: str
    recordings: int
    same_texts: int
    needed: int = 0
    marked: int = 0
    ours: CerReport | None = None
    theirs: CerReport | None = None

    @property
    def increase(self) -> float | None:
        """Of the CER, absolute."""
        if self.ours is None or self.theirs is None:
            return None
        return float(self.theirs.cer - self.ours.cer)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "precision": self.precision,
            "file": self.file,
            "recordings": self.recordings,
            "same_texts": self.same_texts,
            "marked": self.marked,
            "cer_ours": None if self.ours is None else float(self.ours.cer),
            "cer_sherpa_onnx": None if self.theirs is None else float(self.theirs.cer),
            "increase": self.increase,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SherpaVerification:
    """All models of a folder."""

    folder: Path
    record: SherpaRecord
    hearings: tuple[SherpaHearing, ...]
    tolerance: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "folder": str(self.folder),
            "slot": self.record.slot,
            "tolerance": self.tolerance,
            "models": [item.to_json() for item in self.hearings],
        }

    def require_passed(self) -> None:
        """The gate.

        Raises:
            CerGateFailed: more CER than our runtime has, by more than is tolerated.
            SelfTestFailed: without a manifest, another text on a test recording.
        """
        for item in self.hearings:
            if item.increase is not None and item.increase > self.tolerance:
                assert item.ours and item.theirs
                raise CerGateFailed(
                    f"{self.folder / item.file}: CER {float(item.theirs.cer):.2%} in sherpa-onnx, "
                    f"{float(item.ours.cer):.2%} in asrcompress, expected at most "
                    f"{100 * self.tolerance:g} points more",
                    hint=""
                    if self.record.hears_training_features
                    else "its slot hears other features than training did: see docs/sherpa-onnx.md",
                )
            if item.same_texts < item.needed:
                raise SelfTestFailed(
                    f"{self.folder / item.file}: sherpa-onnx gives another text on "
                    f"{item.recordings - item.same_texts} of {item.recordings} test recordings",
                    hint="measure what it costs: --manifest FILE",
                )


def verify_in_sherpa(
    folder: Path, *, manifest: Path | None, tolerance: float, console: Console
) -> SherpaVerification:
    """Load every model of `folder` in sherpa-onnx, and hold what it hears against our runtime.

    Args:
        folder: written by ``asrcompress export --format sherpa-onnx``.
        manifest: utterances to measure the CER on; the test recordings where None.
        tolerance: absolute CER increase that is allowed.
    Raises:
        BadBundle: the folder is none, or was changed.
        MissingExtra: sherpa-onnx is not installed.
        SherpaFailed: it died.
    """
    if not is_sherpa_folder(folder):
        raise BadBundle(
            f"{folder}: has no {RECORD_NAME}, expected a folder for sherpa-onnx",
            hint="asrcompress export --format sherpa-onnx writes one",
        )
    record = read_sherpa_folder(folder)
    hearings = []
    for precision in record.models:
        check_computation(folder, record, precision)
        if manifest is None:
            hearings.append(hear_wavs(folder, record, precision, console))
        else:
            utterances = load_manifest(manifest)
            hearings.append(_hear_manifest(folder, record, precision, utterances, console))
    return SherpaVerification(
        folder=folder, record=record, hearings=tuple(hearings), tolerance=tolerance
    )


def hear_wavs(
    folder: Path, record: SherpaRecord, precision: str, console: Console
) -> SherpaHearing:
    """The test recordings, against the texts in the record.

    Where sherpa-onnx adds dither, which is noise, one or two of them may come out differently.
    """
    model = record.models[precision]
    audio = [Recording(path=folder / WAVS / name) for name in model.texts]
    with console.progress(f"sherpa-onnx {precision}") as advance:
        heard = hear_in_sherpa(job_of(folder, record, precision), audio, advance)
    same = sum(a == b for a, b in zip(heard, model.texts.values(), strict=True))
    return SherpaHearing(
        precision=precision,
        file=model.file,
        recordings=len(heard),
        same_texts=same,
        needed=len(heard) // 2 + 1 if record.slot == WENET else len(heard),
    )


def measure_in_sherpa(
    folder: Path,
    record: SherpaRecord,
    precision: str,
    utterances: Sequence[Utterance],
    console: Console,
) -> tuple[CerReport, int]:
    """CER of what sherpa-onnx hears.

    Returns:
        the report, and in how many texts it prints ``<unk>`` and its like: they stand for no text
        in it, as in our runtime.
    Raises:
        BadAudio, SherpaFailed: see `hear_in_sherpa`.
    """
    audio = [
        Recording(path=item.audio, start_s=item.start_s, end_s=item.end_s) for item in utterances
    ]
    with console.progress(f"sherpa-onnx {precision}") as advance:
        heard = hear_in_sherpa(job_of(folder, record, precision), audio, advance)
    spoken = [without_marks(text) for text in heard]
    return score_all(utterances, spoken), sum(a != b for a, b in zip(heard, spoken, strict=True))


def _hear_manifest(
    folder: Path,
    record: SherpaRecord,
    precision: str,
    utterances: Sequence[Utterance],
    console: Console,
) -> SherpaHearing:
    theirs, marked = measure_in_sherpa(folder, record, precision, utterances, console)
    vocabulary = Vocabulary.from_tokens_txt(folder / TOKENS)
    with tempfile.TemporaryDirectory(prefix="asrcompress-") as scratch:
        reference = reference_of(folder, record, precision, vocabulary, Path(scratch))
        ours = evaluate(reference, utterances, console=console, title=f"asrcompress {precision}")
    pairs = zip(theirs.utterances, ours.cer.utterances, strict=True)
    return SherpaHearing(
        precision=precision,
        file=record.models[precision].file,
        recordings=len(utterances),
        same_texts=sum(a.hypothesis == b.hypothesis for a, b in pairs),
        marked=marked,
        ours=ours.cer,
        theirs=theirs,
    )
