"""The one door through which Paddle and PaddleSpeech enter the process.

Order and side effects matter:

* ``h5py`` must be loaded before ``paddle`` 2.6: both carry zlib symbols, and the other way round
  the process dies in ``inflateReset2``.
* Importing PaddleSpeech's U2 or DeepSpeech2 calls ``pip install paddlespeech_ctcdecoders`` where
  that package is missing (it has no wheel beyond Python 3.10). asrcompress decodes by itself and
  never needs it.
* On processors that are not Intel's, Paddle's matrix products want a hint; see `asrcompress.blas`.
* PaddleSpeech's logger creates ``exp/log`` in the current folder and prints at DEBUG level.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from asrcompress.blas import use_quick_kernels
from asrcompress.errors import BadRecipe, MissingExtra

# Warnings of Paddle's chain about itself, which no user of asrcompress can act on.
_NOISE = (
    "pkg_resources is deprecated",
    # python_speech_features, the first time that it is compiled.
    '"is" with a literal',
    "Setuptools is replacing distutils",
    "The Attr\\(force_cpu\\) of Op",
    # Said of every batch norm in training mode, folded and frozen ones too.
    "When training, we now always track global mean and variance",
)


# Asked before Paddle is imported, which sets it to 1 where it is not set.
_GIVEN_THREADS = os.environ.get("OMP_NUM_THREADS")


@functools.cache
def import_paddle() -> Any:
    """``paddle``, with h5py loaded first.

    Raises:
        MissingExtra: the ``[compress]`` extra is not installed.
    """
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    use_quick_kernels()
    try:
        import h5py  # noqa: F401  (must come before paddle, see above)
        import paddle
    except ImportError as error:
        raise MissingExtra(error.name or "paddlepaddle", "compress") from error
    # Paddle announces at every to_static how it lowers the code; nobody can act on it.
    logging.getLogger("paddle").setLevel(logging.ERROR)
    return paddle


def use_device(device: str) -> None:
    """Make `device` Paddle's current one; among several training processes, this one's GPU.

    Args:
        device: ``cpu`` or ``gpu:N``.
    Raises:
        BadRecipe: Paddle was built without CUDA, or has no such GPU.
    """
    paddle = import_paddle()
    if device != "cpu" and int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) > 1:
        # The launcher assigns the GPUs; every process gets the same --device.
        device = f"gpu:{paddle.distributed.ParallelEnv().device_id}"
    try:
        paddle.set_device(device)
    except (ValueError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise BadRecipe(
            f"training.device: {device} cannot be used, {reason}",
            hint="--device cpu, or install a Paddle for this GPU (asrcompress doctor)",
        ) from error


@contextlib.contextmanager
def threads(wanted: int) -> Iterator[None]:
    """Paddle's matrix products are computed by `wanted` threads in here, on a CPU.

    Args:
        wanted: 0 for one per core, where OMP_NUM_THREADS is not set and this process is not one of
            several that train together.
    """
    core = import_paddle().base.core
    alone = _GIVEN_THREADS is None and int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) == 1
    if not wanted and not alone:
        yield
        return
    core.set_num_threads(wanted or _cores())
    try:
        yield
    finally:
        core.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def import_u2() -> type:
    """PaddleSpeech's ``U2Model`` class.

    Raises:
        MissingExtra: the ``[compress]`` extra is not installed.
    """
    with _paddlespeech_import():
        from paddlespeech.s2t.models.u2 import U2Model
    return U2Model  # type: ignore[no-any-return]


@functools.cache
def import_deepspeech2() -> type:
    """PaddleSpeech's ``DeepSpeech2Model`` class.

    Raises:
        MissingExtra: the ``[compress]`` extra is not installed.
    """
    with _paddlespeech_import():
        from paddlespeech.s2t.models.ds2 import DeepSpeech2Model
    return DeepSpeech2Model  # type: ignore[no-any-return]


@functools.cache
def import_transformation() -> type:
    """PaddleSpeech's ``Transformation``: its feature pipeline, from a preprocess configuration.

    Raises:
        MissingExtra: the ``[compress]`` extra is not installed.
    """
    with _paddlespeech_import():
        from paddlespeech.audio.transform.transformation import Transformation
    return Transformation  # type: ignore[no-any-return]


def import_spectra() -> Callable[..., Callable[[np.ndarray], np.ndarray]]:
    """PaddleSpeech's features of the time before ``Transformation``, by its own classes.

    Returns:
        ``(featurizer=, cmvn_path=None)`` -> float samples -> (frames, width); `featurizer` are the
        arguments of ``AudioFeaturizer``.
    Raises:
        MissingExtra: the ``[compress]`` extra is not installed.
    """
    with _paddlespeech_import():
        from paddlespeech.s2t.frontend.audio import AudioSegment
        from paddlespeech.s2t.frontend.featurizer.audio_featurizer import AudioFeaturizer
        from paddlespeech.s2t.frontend.normalizer import FeatureNormalizer

    def make(
        featurizer: dict[str, Any], cmvn_path: str | None = None
    ) -> Callable[[np.ndarray], np.ndarray]:
        features = AudioFeaturizer(**featurizer)
        normalizer = FeatureNormalizer(cmvn_path) if cmvn_path else None

        def of_samples(samples: np.ndarray) -> np.ndarray:
            spectrum: np.ndarray = features.featurize(AudioSegment(samples, 16000))
            return normalizer.apply(spectrum) if normalizer else spectrum

        return of_samples

    return make


@contextlib.contextmanager
def _paddlespeech_import() -> Iterator[None]:
    """Import PaddleSpeech in here: without its log file, its log lines and its call of pip."""
    import_paddle()
    before = os.getcwd()
    # PaddleSpeech opens its log file relative to the current folder while it is imported.
    with tempfile.TemporaryDirectory(prefix="asrcompress-", ignore_cleanup_errors=True) as scratch:
        try:
            os.chdir(scratch)
            _silence_paddlespeech()
            _forbid_pip()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except ImportError as error:
            raise MissingExtra(error.name or "paddlespeech", "compress") from error
        finally:
            os.chdir(before)
            _silence_paddlespeech()


def _forbid_pip() -> None:
    """Replace the module that PaddleSpeech calls pip through, before it is imported."""
    stub = ModuleType("paddlespeech.s2t.utils.dynamic_pip_install")

    def install(package_name: str) -> None:
        """Do nothing: U2 goes on without the package, DeepSpeech2 only asks that this not fail."""

    stub.install = install  # type: ignore[attr-defined]
    sys.modules.setdefault(stub.__name__, stub)


def _silence_paddlespeech() -> None:
    """Mute PaddleSpeech's log, which goes to stdout at DEBUG level, and close its exp/log file."""
    try:
        from loguru import logger
    except ImportError as error:
        raise MissingExtra("loguru", "compress") from error
    logger.disable("paddlespeech")
    logger.remove()
