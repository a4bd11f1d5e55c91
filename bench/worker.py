"""One contender in a process of its own: loads it, runs it when asked, says how long that took.

A script that is started by its path, in whatever Python the contender lives in (Paddle Lite's is
3.8), so it needs numpy and the contender's library only. Orders come on stdin and answers go to
stdout, one line of JSON each; the first order says what to load. Reading inputs from disk is never
timed. What libraries print goes to stderr.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import wave
from pathlib import Path
from typing import Any, TextIO

import numpy as np


class OnnxRuntime:
    """A graph ``(x, x_lens) -> (log_probs, ...)`` in ONNX Runtime, with its default options."""

    def __init__(self, spec: dict[str, Any], threads: int) -> None:
        self._session = _onnxruntime_session(spec["model"], threads)
        self._x, self._lens = (item.name for item in self._session.get_inputs())

    def run(self, features: np.ndarray) -> np.ndarray:
        """Log-probabilities (frames', vocabulary) of features (frames, width)."""
        feeds = {self._x: features[None], self._lens: np.array([len(features)], np.int64)}
        found: np.ndarray = self._session.run(None, feeds)[0][0]
        return found


class OurNetwork:
    """The same graph in this project's runtime."""

    def __init__(self, spec: dict[str, Any], threads: int) -> None:
        from asrcompress.runtime.session import OnnxAcousticModel

        self._model = OnnxAcousticModel(Path(spec["model"]), threads=threads)

    def run(self, features: np.ndarray) -> np.ndarray:
        """As `OnnxRuntime.run`."""
        return self._model.log_probs([features])[0]


class OurBundle:
    """Samples to text by this project's runtime, greedily; loading checks every hash."""

    def __init__(self, spec: dict[str, Any], threads: int) -> None:
        from asrcompress.runtime import Transcriber

        self._transcriber = Transcriber(spec["bundle"], threads=threads)

    def run(self, samples: np.ndarray) -> str:
        """Text of float32 samples in [-1, 1)."""
        return self._transcriber.transcribe(samples).text


class PaddleInference:
    """A Paddle program in Paddle Inference, with or without oneDNN."""

    def __init__(self, spec: dict[str, Any], threads: int) -> None:
        from paddle import inference

        config = inference.Config(spec["model"], spec["params"])
        config.disable_glog_info()
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(threads)
        config.switch_ir_optim(True)
        config.enable_memory_optim()
        if spec["onednn"]:
            config.enable_mkldnn()
            config.set_mkldnn_cache_capacity(10)
        self._predictor = inference.create_predictor(config)
        self._names = self._predictor.get_input_names()
        self._output = self._predictor.get_output_names()[0]

    def run(self, features: np.ndarray) -> np.ndarray:
        """As `OnnxRuntime.run`."""
        feeds = (features[None], np.array([len(features)], np.int64))
        for name, value in zip(self._names, feeds):  # noqa: B905 (3.8 has no strict=)
            self._predictor.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(value))
        self._predictor.run()
        found: np.ndarray = self._predictor.get_output_handle(self._output).copy_to_cpu()[0]
        return found


class PaddleLite:
    """Programs of fixed lengths in Paddle Lite; features go into the shortest that holds them."""

    def __init__(self, spec: dict[str, Any], threads: int) -> None:
        from paddlelite.lite import MobileConfig, create_paddle_predictor

        if int(os.environ["OMP_NUM_THREADS"]) != threads:  # the only way to tell it
            raise ValueError("OMP_NUM_THREADS is not the number of threads")
        self._min_frames, self._factor = int(spec["min_frames"]), int(spec["subsampling"])
        self._states: dict[str, list[int]] = spec["states"]
        self._buckets = []
        for bucket in spec["buckets"]:
            config = MobileConfig()
            config.set_model_from_file(bucket["file"])
            self._buckets.append((bucket["frames"], create_paddle_predictor(config)))

    def run(self, features: np.ndarray) -> np.ndarray:
        """As `OnnxRuntime.run`.

        Raises:
            ValueError: longer than the longest length.
        """
        fitting = [item for item in self._buckets if item[0] >= len(features)]
        if not fitting:
            raise ValueError(f"{len(features)} frames, expected at most {self._buckets[-1][0]}")
        frames, predictor = fitting[0]
        kept = self._outputs(len(features))
        padded = np.zeros((1, frames, features.shape[1]), np.float32)
        padded[0, : len(features)] = features
        feeds = {"x": padded, **{k: np.zeros(v, np.float32) for k, v in self._states.items()}}
        if not self._states:  # U2: a mask of the output frames
            feeds["keep"] = np.zeros((1, self._outputs(frames), 1), np.float32)
            feeds["keep"][:, :kept] = 1.0
        for name, value in feeds.items():
            predictor.get_input_by_name(name).from_numpy(value)
        predictor.run()
        return np.array(predictor.get_output(0).numpy())[0, :kept]  # a copy: it is a view

    def _outputs(self, frames: int) -> int:
        return (frames - self._min_frames) // self._factor + 1


class OpenVino:
    """A graph in OpenVINO, tuned for latency as its documentation says."""

    def __init__(self, spec: dict[str, Any], threads: int) -> None:
        self._spec = spec
        compiled = _openvino_model(spec["model"], threads, exact=spec["exact"])
        self._request = compiled.create_infer_request()

    def run(self, features: np.ndarray) -> np.ndarray:
        """As `OnnxRuntime.run`."""
        found = self._request.infer([features[None], np.array([len(features)], np.int64)])
        log_probs: np.ndarray = found[0][0]
        return log_probs

    def integer_share(self) -> float:
        """Share of the multiply-accumulates on integers, by the precisions it says it executed.

        Counted on 10 s of audio, compiled anew with fixed shapes: a free one is not filled in.
        """
        shapes = {"x": [1, 1000, self._spec["width"]], "x_lens": [1]}
        compiled = _openvino_model(self._spec["model"], 1, exact=self._spec["exact"], shapes=shapes)
        total = integer = 0
        for node in compiled.get_runtime_model().get_ordered_ops():
            macs = _openvino_macs(node)
            total += macs
            if str(node.get_rt_info()["runtimePrecision"].astype(str)) in ("i8", "u8"):
                integer += macs
        return integer / total


class Sherpa:
    """Samples to text by sherpa-onnx, features and greedy search included."""

    def __init__(self, spec: dict[str, Any], threads: int) -> None:
        import sherpa_onnx

        files = {"model": spec["model"], "tokens": spec["tokens"], "num_threads": threads}
        make = sherpa_onnx.OfflineRecognizer
        if spec["slot"] == "fire_red_asr_ctc":
            self._recognizer = make.from_fire_red_asr_ctc(**files)
        else:
            self._recognizer = make.from_wenet_ctc(**files, feature_dim=spec["width"])

    def run(self, samples: np.ndarray) -> str:
        """Text of float32 samples in [-1, 1)."""
        stream = self._recognizer.create_stream()
        stream.accept_waveform(16000, samples)
        self._recognizer.decode_stream(stream)
        return str(stream.result.text)


class RawOnnxRuntime:
    """Any graph in ONNX Runtime; the input is ignored, the feeds are part of what is loaded."""

    def __init__(self, spec: dict[str, Any], threads: int) -> None:
        self._session = _onnxruntime_session(spec["model"], threads)
        self._feeds = dict(np.load(spec["feeds"]))

    def run(self, _: None) -> np.ndarray:
        """First output."""
        found: np.ndarray = self._session.run(None, self._feeds)[0]
        return found


class RawOpenVino:
    """As `RawOnnxRuntime`, in OpenVINO."""

    def __init__(self, spec: dict[str, Any], threads: int) -> None:
        self._request = _openvino_model(spec["model"], threads, exact=True).create_infer_request()
        self._feeds = dict(np.load(spec["feeds"]))

    def run(self, _: None) -> np.ndarray:
        """First output."""
        found: np.ndarray = self._request.infer(self._feeds)[0]
        return found


# engine -> (class, module whose import is timed, what it is fed with)
ENGINES: dict[str, tuple[Any, str, str]] = {
    "onnxruntime": (OnnxRuntime, "onnxruntime", "features"),
    "asrcompress": (OurNetwork, "asrcompress.runtime", "features"),
    "asrcompress bundle": (OurBundle, "asrcompress.runtime", "audio"),
    "paddle inference": (PaddleInference, "paddle", "features"),
    "paddle lite": (PaddleLite, "paddlelite.lite", "features"),
    "openvino": (OpenVino, "openvino", "features"),
    "sherpa-onnx": (Sherpa, "sherpa_onnx", "audio"),
    "raw onnxruntime": (RawOnnxRuntime, "onnxruntime", ""),
    "raw openvino": (RawOpenVino, "openvino", ""),
}


def main() -> None:
    """Serve orders until stdin ends."""
    answers = _answers()
    setup = json.loads(sys.stdin.readline())
    make, module, kind = ENGINES[setup["engine"]]
    started = time.perf_counter()
    __import__(module)
    imported = time.perf_counter()
    engine = make(setup["spec"], setup["threads"])
    loaded = time.perf_counter()
    _answer(answers, {"import_s": imported - started, "load_s": loaded - imported, **memory()})
    inputs: dict[str, Any] = {}
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "integer_share":
            _answer(answers, {"integer_share": engine.integer_share()})
            continue
        if order["input"] not in inputs:
            inputs[order["input"]] = read_input(order["input"], kind)
        given = inputs[order["input"]] if order["do"] == "run" else inputs.pop(order["input"])
        started = time.perf_counter()
        result = engine.run(given)
        seconds = time.perf_counter() - started
        answer: dict[str, Any] = {"seconds": seconds, **memory()}
        if order["do"] == "hear":
            answer.update(_kept(result, order["output"]))
        _answer(answers, answer)


def read_input(path: str, kind: str) -> Any:
    """Features (frames, width), or samples of a 16-bit WAV file, both float32; None for neither."""
    if kind == "features":
        return np.load(path + ".npy")
    if not kind:
        return None
    with wave.open(path + ".wav", "rb") as file:
        data = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    return data.astype(np.float32) / np.float32(32768.0)


def memory() -> dict[str, int]:
    """What this process holds, and the most that it ever held (Linux).

    Not getrusage's: that survives exec, so that a child of a large process would report its
    parent's peak.
    """
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            found[name] = int(value.split()[0]) * 1024
    return {"rss_bytes": found["VmRSS"], "peak_rss_bytes": found["VmHWM"]}


def _kept(result: Any, output: str) -> dict[str, Any]:
    """Text goes into the answer, log-probabilities into a file."""
    if isinstance(result, str):
        return {"text": result}
    np.save(output, result)
    return {}


def _answers() -> TextIO:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _answer(answers: TextIO, tree: dict[str, Any]) -> None:
    answers.write(json.dumps(tree) + "\n")
    answers.flush()


def _onnxruntime_session(model: str, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _openvino_model(
    path: str, threads: int, *, exact: bool, shapes: dict[str, list[int]] | None = None
) -> Any:
    """A compiled model; `exact`: float is float32, not bfloat16 where the core has it."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    if exact:
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    model = core.read_model(path)
    if shapes:
        model.reshape(shapes)
    return core.compile_model(model, "CPU", settings)


def _openvino_macs(node: Any) -> int:
    """Multiply-accumulates of a node of OpenVINO's executed graph, by the shapes it ran with."""
    kind = str(node.get_rt_info()["layerType"].astype(str))
    if kind not in _MULTIPLIES:
        return 0
    shapes = [tuple(item.get_shape()) for item in node.inputs()]
    outputs = tuple(node.output(0).get_shape())
    if kind == "Convolution":
        return int(math.prod(outputs) * math.prod(shapes[1]) // outputs[1])
    if kind in _RECURRENT:  # a sequence and each state come out: two states have four gates
        gates = len(node.outputs()) + 1
        return int(gates * math.prod(outputs) * (shapes[0][-1] + outputs[-1]))
    return int(math.prod(outputs) * shapes[0][-1])


# An LSTM of which nothing else is known runs as an iteration over its cell.
_RECURRENT = {"RNNSeq", "TensorIterator"}
_MULTIPLIES = {"Convolution", "FullyConnected", "MatMul", *_RECURRENT}


if __name__ == "__main__":
    main()
