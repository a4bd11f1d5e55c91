"""The leak guard: no gate utterance may have been trained or calibrated on.

Three things give a leak away:

1. an utterance id in both sets (ids that were made from paths are not compared: `001.wav` in two
   folders is not a leak);
2. the same audio: the same file with spans that overlap, or the same samples after decoding,
   whatever the file is called and however it is wrapped (WAV and FLAC of one recording are equal);
3. a speaker in both sets, or a recording of which both sets hold a part; allowed on request.

Not seen: the same recording encoded again with loss, resampled, cut or amplified.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from asrcompress.audio import read_audio, to_int16
from asrcompress.errors import AsrCompressError, BadAudio, DataLeak
from asrcompress.manifests.lines import seen
from asrcompress.manifests.manifest import Utterance

SHOWN_EXAMPLES = 3
_BEGINNING_SAMPLES = 1500  # of the 1,600 in 0.1 s: the last ones are subject to rounding of times


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakCheck:
    """What was compared and found disjoint.

    Attributes:
        recordings: distinct pieces of audio that were compared, of both sets together.
        speakers_compared: whether both sets name any speakers; if not, the rule about speakers
            could not be checked.
    """

    train_utterances: int
    gate_utterances: int
    recordings: int
    speakers_compared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Overlap:
    """One kind of leak: how it is called, and a phrase for each case."""

    kind: str
    cases: tuple[str, ...]
    by_speaker: bool = False


def check_leak(
    train: Sequence[Utterance],
    gate: Sequence[Utterance],
    *,
    allow_shared_speakers: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> LeakCheck:
    """Prove that the sets are disjoint, or say how they are not.

    Ids, paths and speakers are compared first; audio is decoded only when they are disjoint.

    Args:
        train: what was, or will be, trained and calibrated on.
        gate: what the verdict is measured on.
        allow_shared_speakers: let both sets hold the same speakers, and other parts of the same
            recordings.
        progress: called with (recordings compared, recordings in all).
    Raises:
        DataLeak: counts and the first examples of each kind.
        BadAudio: audio of either set that cannot be read.
    """
    overlaps = [_shared_ids(train, gate), _shared_spans(train, gate)]
    if not allow_shared_speakers:
        overlaps += [_shared_speakers(train, gate), _shared_recordings(train, gate)]
    _raise_if_any([overlap for overlap in overlaps if overlap.cases])
    overlap, recordings = _shared_samples(train, gate, progress)
    _raise_if_any([overlap] if overlap.cases else [])
    return LeakCheck(
        train_utterances=len(train),
        gate_utterances=len(gate),
        recordings=recordings,
        speakers_compared=all(any(item.speaker for item in part) for part in (train, gate)),
    )


# Path with links resolved, and the span: what identifies a piece of audio before it is decoded.
_Key = tuple[str, float | None, float | None]


def _key(item: Utterance) -> _Key:
    return os.path.realpath(item.audio), item.start_s, item.end_s


def _raise_if_any(overlaps: list[_Overlap]) -> None:
    if not overlaps:
        return
    lines = []
    for overlap in overlaps:
        shown = "; ".join(overlap.cases[:SHOWN_EXAMPLES])
        more = "; ..." if len(overlap.cases) > SHOWN_EXAMPLES else ""
        lines.append(f"  {len(overlap.cases)} {overlap.kind}: {shown}{more}")
    speakers_only = all(overlap.by_speaker for overlap in overlaps)
    raise DataLeak(
        "\n".join(
            ["gate manifest: shares data with training or calibration, expected none", *lines]
        ),
        hint="use a split by speakers, or --allow-shared-speakers if new voices do not matter"
        if speakers_only
        else "take these utterances out of the training and calibration manifests",
    )


def _shared_ids(train: Sequence[Utterance], gate: Sequence[Utterance]) -> _Overlap:
    known = {item.utt for item in train if not item.utt_from_path}
    return _Overlap(
        kind="shared utterance ids",
        cases=tuple(
            seen(item.utt) for item in gate if item.utt in known and not item.utt_from_path
        ),
    )


def _shared_spans(train: Sequence[Utterance], gate: Sequence[Utterance]) -> _Overlap:
    by_file = _by_file(train)
    cases = []
    for item in gate:
        twins = by_file.get(os.path.realpath(item.audio), ())
        twin = next((one for one in twins if _overlapping(one, item)), None)
        if twin:
            cases.append(f"{item.audio} ({seen(item.utt)}, there {seen(twin.utt)})")
    return _Overlap(kind="shared audio files", cases=tuple(cases))


def _shared_recordings(train: Sequence[Utterance], gate: Sequence[Utterance]) -> _Overlap:
    """Files of which both sets hold parts that do not overlap: one speaker, one room."""
    by_file = _by_file(train)
    shared = {}
    for item in gate:
        path = os.path.realpath(item.audio)
        twins = by_file.get(path, ())
        if twins and not any(_overlapping(one, item) for one in twins):
            shared[path] = f"{item.audio} ({seen(item.utt)}, there {seen(twins[0].utt)})"
    return _Overlap(
        kind="recordings with parts in both", cases=tuple(shared.values()), by_speaker=True
    )


def _shared_speakers(train: Sequence[Utterance], gate: Sequence[Utterance]) -> _Overlap:
    known = {item.speaker for item in train if item.speaker}
    shared = dict.fromkeys(item.speaker for item in gate if item.speaker in known)
    return _Overlap(
        kind="shared speakers", cases=tuple(seen(speaker) for speaker in shared), by_speaker=True
    )


def _shared_samples(
    train: Sequence[Utterance],
    gate: Sequence[Utterance],
    progress: Callable[[int, int], None] | None,
) -> tuple[_Overlap, int]:
    """Equal audio, and the number of pieces of audio that were compared.

    What is equal begins equally. Only pieces whose beginning occurs in both sets are decoded to
    the end, which makes the check ten times faster and no less exact.
    """
    pieces = {_key(item): item for item in (*train, *gate)}
    beginnings = {}
    for done, (key, item) in enumerate(pieces.items(), start=1):
        beginnings[key] = _digest(item, beginning=True)
        if progress:
            progress(done, len(pieces))
    keys = [{_key(item) for item in part} for part in (train, gate)]
    both = {beginnings[key] for key in keys[0]} & {beginnings[key] for key in keys[1]}
    digests = {
        key: _digest(item, beginning=False)
        for key, item in pieces.items()
        if beginnings[key] in both
    }
    known = {digests[_key(item)]: item for item in reversed(train) if _key(item) in digests}
    cases = []
    for item in gate:
        digest = digests.get(_key(item), "")
        twin = known.get(digest)
        if twin:
            cases.append(f"{seen(item.utt)} is {seen(twin.utt)} (samples sha256 {digest[:12]}...)")
    return _Overlap(kind="equal recordings", cases=tuple(cases)), len(pieces)


def _digest(item: Utterance, *, beginning: bool) -> str:
    """SHA-256 of the decoded samples as 16-bit integers, or of the first 1,500 of them."""
    start_s, end_s = item.start_s, item.end_s
    if beginning:
        # 0.1 s past the end is within what `read_audio` tolerates, so the shortest audio passes.
        stop_s = (start_s or 0.0) + 0.1
        end_s = stop_s if end_s is None else min(end_s, stop_s)
    try:
        samples = read_audio(item.audio, start_s=start_s, end_s=end_s)
    except AsrCompressError as error:
        raise BadAudio(f"{item.utt}: {error}", hint=error.hint) from error
    if beginning:
        samples = samples[:_BEGINNING_SAMPLES]
    # Little-endian by name: the digest is the same on every machine.
    return hashlib.sha256(to_int16(samples).astype("<i2").tobytes()).hexdigest()


def _by_file(utterances: Iterable[Utterance]) -> dict[str, list[Utterance]]:
    found: dict[str, list[Utterance]] = {}
    for item in utterances:
        found.setdefault(os.path.realpath(item.audio), []).append(item)
    return found


def _overlapping(one: Utterance, other: Utterance) -> bool:
    """Whether two utterances of the same file share a moment; no span is the whole file."""
    ends = [float("inf") if item.end_s is None else item.end_s for item in (one, other)]
    return max(one.start_s or 0.0, other.start_s or 0.0) < min(ends)
