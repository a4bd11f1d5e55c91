"""An ONNX graph while it is rewritten: who makes a tensor, who reads it, and what changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper


class Rewriting:
    """A graph whose nodes are looked up as they were, and replaced all at once at the end.

    Args:
        model: its nodes in topological order; changed by `add` and `finish` only.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._nodes = list(model.graph.node)
        self._stored = {item.name: item for item in model.graph.initializer}
        self._outputs = {item.name for item in model.graph.output}
        self._producer = {name: node for node in self._nodes for name in node.output}
        self._readers: dict[str, list[Any]] = {}
        for node in self._nodes:
            for name in _read_by(node):
                self._readers.setdefault(name, []).append(node)
        self._replaced: dict[int, tuple[Any, ...]] = {}

    def nodes(self, kind: str) -> list[Any]:
        """The nodes of one operator, in order."""
        return [node for node in self._nodes if node.op_type == kind]

    def array(self, name: str) -> np.ndarray | None:
        """Value of an initializer; None for anything else."""
        tensor = self._stored.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def value(self, name: str) -> np.ndarray:
        """Value of an initializer.

        Raises:
            KeyError: there is none of this name.
        """
        return np.asarray(numpy_helper.to_array(self._stored[name]))

    def add(self, name: str, value: np.ndarray) -> str:
        """Store an initializer, unless it is there already; its name."""
        if name not in self._stored:
            self._stored[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def dimensions(self, name: str) -> list[int | None] | None:
        """The shape that the graph states for a tensor; None where it states none, or no number."""
        for info in (*self.model.graph.value_info, *self.model.graph.input):
            if info.name == name and info.type.tensor_type.HasField("shape"):
                return [dim.dim_value or None for dim in info.type.tensor_type.shape.dim]
        return None

    def producer(self, name: str) -> Any:
        """The node that makes `name`; None for an input or initializer."""
        return self._producer.get(name)

    def dequantizer(self, name: str) -> Any:
        """The DequantizeLinear that makes `name`; None where something else does."""
        node = self._producer.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def readers(self, name: str) -> list[Any]:
        """The nodes that read `name`, in their subgraphs too."""
        return list(self._readers.get(name, ()))

    def reader(self, name: str, *, besides: str = "") -> Any:
        """The only node that reads `name`; None where there are others, or it is an output.

        Args:
            besides: operator that does not count.
        """
        found = [node for node in self._readers.get(name, ()) if node.op_type != besides]
        return found[0] if len(found) == 1 and name not in self._outputs else None

    def is_output(self, name: str) -> bool:
        """Whether a tensor is an output of the graph."""
        return name in self._outputs

    def replace(self, old: Sequence[Any], *new: Any) -> None:
        """Put `new` where the last of `old` stands, and nothing where the others do."""
        for node in old[:-1]:
            self._replaced[id(node)] = ()
        self._replaced[id(old[-1])] = new

    def finish(self) -> None:
        """Apply the replacements, and drop what nothing reads any more."""
        graph = self.model.graph
        nodes = [new for node in self._nodes for new in self._replaced.get(id(node), (node,))]
        wanted, alive = set(self._outputs), []
        for node in reversed(nodes):
            if wanted & set(node.output):
                alive.append(node)
                wanted |= set(_read_by(node))
        made = {name for node in alive for name in node.output}
        stored = [item for item in self._stored.values() if item.name in wanted]
        infos = [item for item in graph.value_info if item.name in made]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(reversed(alive))
        graph.initializer.extend(stored)
        graph.value_info.extend(infos)


def _read_by(node: Any) -> Iterator[str]:
    """Names that a node reads, those of its subgraphs (a Scan's body) included."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _read_by(inner)
