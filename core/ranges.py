"""What quantization learned: a range for every edge, and which edges meet in which product.

This is the seam between training and export. It names tensors by *parameters* of the checkpoint
(``encoder.encoders.0.feed_forward.w_1.weight``) and by *edges*, names that the quantized network
gives to its activations (``encoder.encoders.0.feed_forward.w_1:input``). No graph is mentioned, so
any export can use it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asrcompress import strict_json
from asrcompress.errors import BadRun
from asrcompress.files import write_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationRange:
    """Range of one edge, on a uint8 grid.

    A signed edge uses zero point 128 and covers [-absmax, absmax]; an unsigned one (after ReLU or
    softmax) uses zero point 0 and covers [0, absmax]. An edge whose lowest value is known and close
    to zero (after Swish) covers [lowest, absmax], so that nearly all codes go to its positive side.

    Attributes:
        absmax: end of the grid, > 0.
        unsigned: nothing is below zero.
        lowest: the other end, <= 0, where it does not follow from the two.
    """

    absmax: float
    unsigned: bool = False
    lowest: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.absmax) or self.absmax <= 0:
            raise ValueError(f"absmax {self.absmax} is not finite and > 0")
        if self.lowest is not None and (self.unsigned or not -math.inf < self.lowest <= 0):
            raise ValueError(f"lowest {self.lowest} is not finite and <= 0 on a signed edge")

    @property
    def scale(self) -> float:
        """Real value of one step of the grid."""
        if self.lowest is not None:
            return (self.absmax - self.lowest) / 255.0
        return self.absmax / (255.0 if self.unsigned else 127.0)

    @property
    def zero_point(self) -> int:
        """The uint8 code of 0.0."""
        if self.lowest is not None:
            return round(-self.lowest / self.scale)
        return 0 if self.unsigned else 128


# Of a sigmoid's output: the codes 0 to 255 stand for 0 to 255 / 256.
GATE = ActivationRange(absmax=255 / 256, unsigned=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightRange:
    """A layer that multiplies an edge by a parameter.

    Attributes:
        parameter: structured name of the weight.
        axis: output channels of the weight as stored: 1 for Linear, 0 for convolutions.
        absmax: one value per output channel; int8 scale is absmax / `Ranges.weight_top`, symmetric.
        input: edge that the layer reads.
        output: edge that the layer writes where its kernel needs an output range, else None.
    """

    parameter: str
    axis: int
    absmax: tuple[float, ...]
    input: str
    output: str | None = None

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value >= 0 for value in self.absmax):
            raise ValueError(f"{self.parameter}: absmax is not finite and >= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductRange:
    """A product of two activations, as in attention.

    Attributes:
        right_parameter: the weight that the right operand was computed with; names the product.
        left: edge of the left operand.
        right: edge of the right operand.
    """

    right_parameter: str
    left: str
    right: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentRange:
    """One weight of an LSTM or GRU, whose activations are quantized as they come.

    Attributes:
        parameter: structured name, ``encoder.rnn.0.weight_ih_l0``; ``_reverse`` behind it where it
            reads backwards.
        absmax: one value per gate row of the weight as stored, (gates * hidden, inputs); the int8
            scale is absmax / `Ranges.weight_top`, symmetric.
    """

    parameter: str
    absmax: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value >= 0 for value in self.absmax):
            raise ValueError(f"{self.parameter}: absmax is not finite and >= 0")

    @property
    def layer(self) -> str:
        """Structured name of the layer that the weight belongs to."""
        return self.parameter.rpartition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """All learned ranges of a network.

    Attributes:
        swishes: edges in front of a Swish on integers: its gate has the fixed grid `GATE`, and its
            output that of the edge which the next layer reads.
        weight_top: code of the largest weight of a channel: 127, or 63 where the target keeps
            weights to 7 bits.
    """

    activations: Mapping[str, ActivationRange]
    weights: tuple[WeightRange, ...]
    products: tuple[ProductRange, ...] = ()
    recurrent: tuple[RecurrentRange, ...] = ()
    swishes: tuple[str, ...] = ()
    weight_top: int = 127

    def __post_init__(self) -> None:
        named = {edge for w in self.weights for edge in (w.input, w.output) if edge}
        named |= {edge for p in self.products for edge in (p.left, p.right)} | {*self.swishes}
        unknown = sorted(named - set(self.activations))
        if unknown:
            raise ValueError(f"edges without a range: {', '.join(unknown)}")
        if not 1 <= self.weight_top <= 127:
            raise ValueError(f"weight_top {self.weight_top} is not a code of int8")

    def part(self, prefixes: tuple[str, ...], *, inside: bool = True) -> Ranges:
        """The ranges of parameters whose names begin so; of all others with ``inside=False``."""

        def kept(parameter: str) -> bool:
            return parameter.startswith(prefixes) == inside

        weights = tuple(w for w in self.weights if kept(w.parameter))
        products = tuple(p for p in self.products if kept(p.right_parameter))
        edges = {e for w in weights for e in (w.input, w.output)}
        swishes = tuple(edge for edge in self.swishes if kept(edge))
        edges |= {e for p in products for e in (p.left, p.right)} | {*swishes}
        activations = {name: item for name, item in self.activations.items() if name in edges}
        return Ranges(
            activations=activations,
            weights=weights,
            products=products,
            recurrent=tuple(r for r in self.recurrent if kept(r.parameter)),
            swishes=swishes,
            weight_top=self.weight_top,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data, for ``json.dump``."""
        return {
            "activations": {name: asdict(value) for name, value in self.activations.items()},
            "weights": [asdict(value) for value in self.weights],
            "products": [asdict(value) for value in self.products],
            "recurrent": [asdict(value) for value in self.recurrent],
            "swishes": list(self.swishes),
            "weight_top": self.weight_top,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Ranges:
        """Inverse of `to_json`."""
        return cls(
            activations={k: ActivationRange(**v) for k, v in data["activations"].items()},
            weights=tuple(
                WeightRange(**{**item, "absmax": tuple(item["absmax"])}) for item in data["weights"]
            ),
            products=tuple(ProductRange(**item) for item in data["products"]),
            recurrent=tuple(
                RecurrentRange(**{**item, "absmax": tuple(item["absmax"])})
                for item in data.get("recurrent", ())  # absent in runs of U2 networks before 0.2
            ),
            swishes=tuple(data.get("swishes", ())),  # absent in runs before there were any
            weight_top=data.get("weight_top", 127),  # absent in runs before there were targets
        )


def write_ranges(path: Path, ranges: Ranges) -> None:
    """Write `ranges` as JSON, atomically."""
    write_atomically(path, json.dumps(ranges.to_json(), indent=1))


def read_ranges(path: Path) -> Ranges:
    """Read what `write_ranges` wrote.

    Raises:
        BadRun: missing, not JSON, or not ranges.
    """
    try:
        return Ranges.from_json(strict_json.parse(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise BadRun(f"{path}: cannot be read, {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRun(f"{path}: does not hold learned ranges, {error!r}") from error
