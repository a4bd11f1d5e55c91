"""Paddle Lite's side of `asrcompress.lite.process`: a script for Python 3.8, started by its path.

It imports numpy and paddlelite and nothing of this package, which needs a newer Python. Orders
come on stdin and answers go to stdout: a line of JSON, then the bytes of the arrays that it lists.
Whatever fails ends the process; the traceback is on stderr and the caller sees the end.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, BinaryIO

import numpy as np
from paddlelite.lite import MobileConfig, Opt, create_paddle_predictor


def main() -> None:
    """Serve orders until stdin ends."""
    orders = sys.stdin.buffer
    # The real stdout; what the library prints goes to stderr and not between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    predictors: dict[str, Any] = {}
    for line in iter(orders.readline, b""):
        order = json.loads(line)
        arrays = read_arrays(orders, order.get("arrays", []))
        result = []
        if order["do"] == "optimize":
            optimize(order)
        elif order["do"] == "load":
            predictors[order["name"]] = load(order["path"])
        elif order["do"] == "run":
            result = run(predictors[order["name"]], order["inputs"], arrays)
        write_message(answers, {"done": order["do"]}, result)


def optimize(order: dict[str, Any]) -> None:
    """A Paddle program to a ``.nb`` file; the library adds the ending to ``output``."""
    opt = Opt()
    opt.set_model_file(order["model"])
    opt.set_param_file(order["params"])
    opt.set_valid_places(order["target"])
    opt.set_model_type("naive_buffer")
    opt.set_optimize_out(order["output"])
    opt.run()


def load(path: str) -> Any:
    """Predictor of a ``.nb`` file."""
    config = MobileConfig()
    config.set_model_from_file(path)
    return create_paddle_predictor(config)


def run(predictor: Any, names: list[str], arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs of one run; copies, since ``numpy()`` is a view that the next run overwrites."""
    for name, array in zip(names, arrays):  # noqa: B905 (Python 3.8 has no strict=)
        predictor.get_input_by_name(name).from_numpy(array)
    predictor.run()
    count = len(predictor.get_output_names())
    return [np.array(predictor.get_output(index).numpy()) for index in range(count)]


def read_arrays(stream: BinaryIO, specs: list[dict[str, Any]]) -> list[np.ndarray]:
    """The arrays that follow a line of JSON."""
    found = []
    for spec in specs:
        dtype = np.dtype(spec["dtype"])
        data = stream.read(int(np.prod(spec["shape"], dtype=np.int64)) * dtype.itemsize)
        found.append(np.frombuffer(data, dtype).reshape(spec["shape"]))
    return found


def write_message(stream: BinaryIO, head: dict[str, Any], arrays: list[np.ndarray]) -> None:
    """A line of JSON that lists the arrays, and their bytes."""
    specs = [{"dtype": array.dtype.str, "shape": list(array.shape)} for array in arrays]
    stream.write(json.dumps({**head, "arrays": specs}).encode() + b"\n")
    for array in arrays:
        stream.write(np.ascontiguousarray(array).tobytes())
    stream.flush()


if __name__ == "__main__":
    main()
