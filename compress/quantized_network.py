"""A PaddleSpeech network prepared for quantization-aware training, and the ranges it learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asrcompress.batch_norm import fold_batch_norm
from asrcompress.calibration.observers import make_observer
from asrcompress.compress.edges import AttentionEdges, LayerEdges
from asrcompress.compress.families import attentions_of, layers_of
from asrcompress.compress.layers import (
    ATTENTION_OPERANDS,
    AttentionQuanters,
    QuantedConv1D,
    QuantedConv2D,
    QuantedRelPositionAttention,
)
from asrcompress.compress.quanters import ActivationQuanter, GivenQuanter, WeightQuanter
from asrcompress.errors import CalibrationFailed
from asrcompress.paddle_imports import import_paddle
from asrcompress.ranges import ProductRange, Ranges, WeightRange
from asrcompress.recipe import Quantization

paddle = import_paddle()

from paddle.nn.quant.qat import QuantedLinear  # noqa: E402  (after h5py, see paddle_imports)
from paddle.quantization import QAT, QuantConfig  # noqa: E402
from paddlespeech.s2t.modules import align  # noqa: E402
from paddlespeech.s2t.modules.attention import RelPositionMultiHeadedAttention  # noqa: E402


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """A quantized layer with what `Ranges` will say of it."""

    edges: LayerEdges
    quanter: WeightQuanter


class QuantizedNetwork:
    """PaddleSpeech's network with fake quantization in it; parameters keep their names.

    The network observes activations until `finish_calibration`, then quantizes. `network` is
    PaddleSpeech's own object and is used as such: ``network(speech, lengths, text, text_lengths)``
    gives the training loss.
    """

    def __init__(self, network: Any, settings: Quantization) -> None:
        """Fold batch norms and put the quanters in, in place.

        Args:
            network: PaddleSpeech's network as `asrcompress.network.build_network` makes it.
        Raises:
            BadRecipe: a skip pattern that matches nothing.
            BadCheckpoint: a layer without a quantized form.
        """
        self.network = network
        self._settings = settings
        self._plain_names = list(network.state_dict())
        fold_batch_norm(network)
        self.edges: dict[str, ActivationQuanter] = {}
        layers = layers_of(network, settings.skip)
        attentions = attentions_of(network, settings.skip)
        self._layers = [_Prepared(edges=e, quanter=WeightQuanter(e.axis)) for e in layers]
        self._products: list[ProductRange] = []
        network.train()  # paddle.quantization.QAT insists
        self._quantize_layers()
        self._quantize_attentions(attentions)
        network.eval()
        self._check_counts(len(layers), len(attentions))

    def finish_calibration(self) -> None:
        """End observation: ranges are set, weights and activations are quantized from now on.

        Raises:
            CalibrationFailed: names every edge that was not observed or only saw zeros.
        """
        failures = []
        for quanter in self.edges.values():
            try:
                quanter.finish_calibration()
            except CalibrationFailed as error:
                failures.append(str(error))
        if failures:
            raise CalibrationFailed("; ".join(failures[:5]), hint="calibrate on more speech")
        for item in self._layers:
            item.quanter.enabled = True

    def restore(self, ranges: Ranges) -> None:
        """Continue from the ranges of an earlier run instead of calibrating."""
        for name, quanter in self.edges.items():
            quanter.restore(ranges.activations[name].absmax)
        for item in self._layers:
            item.quanter.enabled = True

    def ranges(self) -> Ranges:
        """The ranges as they are now."""
        return Ranges(
            activations={name: quanter.range() for name, quanter in self.edges.items()},
            weights=tuple(self._weight_range(item) for item in self._layers),
            products=tuple(self._products),
        )

    def plain_state_dict(self) -> dict[str, Any]:
        """Weights under PaddleSpeech's names, as numpy arrays: a checkpoint that it can load."""
        state = self.network.state_dict()
        return {name: state[name].numpy() for name in self._plain_names}

    def _weight_range(self, item: _Prepared) -> WeightRange:
        absmax = item.quanter.absmax(item.edges.layer.weight).numpy()
        return WeightRange(
            parameter=f"{item.edges.name}.weight",
            axis=item.edges.axis,
            absmax=tuple(float(value) for value in absmax),
            input=item.edges.input,
            output=item.edges.output,
        )

    def _edge(self, name: str, *, unsigned: bool = False) -> ActivationQuanter:
        """The quanter of an edge; layers that name the same edge get the same one."""
        if name not in self.edges:
            settings = self._settings
            observer = make_observer(
                settings.observer,
                edge=name,
                steps=255.0 if unsigned else 127.0,
                percentile=settings.percentile,
                momentum=settings.momentum,
            )
            self.edges[name] = ActivationQuanter(
                name,
                observer,
                unsigned=unsigned,
                update=settings.range_update,
                momentum=settings.momentum,
            )
        return self.edges[name]

    def _quantize_layers(self) -> None:
        """Replace Linear, Conv1D and Conv2D through paddle.quantization's QAT."""
        config = QuantConfig(activation=None, weight=None)
        config.add_qat_layer_mapping(align.Linear, QuantedLinear)
        config.add_qat_layer_mapping(align.Conv1D, QuantedConv1D)
        config.add_qat_layer_mapping(align.Conv2D, QuantedConv2D)
        written = {item.edges.output for item in self._layers}
        for item in self._layers:
            edges = item.edges
            quanter = self._edge(edges.input, unsigned=edges.input_unsigned)
            # A range that the previous layer's output already went through is not applied twice.
            already = edges.input in written
            config.add_layer_config(
                edges.layer,
                activation=None if already else GivenQuanter(quanter),
                weight=GivenQuanter(item.quanter),
            )
        QAT(config).quantize(self.network, inplace=True)
        self._attach_conv_edges()

    def _attach_conv_edges(self) -> None:
        """Give convolutions what QuantConfig has no place for: output range and bias scale."""
        placed = dict(self.network.named_sublayers())
        for item in self._layers:
            layer = placed[item.edges.name]
            if item.edges.output is not None:
                layer.source_quanter = self._edge(item.edges.input)
                layer.output_quanter = self._edge(
                    item.edges.output, unsigned=item.edges.output_unsigned
                )

    def _quantize_attentions(self, attentions: list[AttentionEdges]) -> None:
        """Replace the attention layers, whose projections are quantized by now."""
        config = QuantConfig(activation=None, weight=None)
        config.add_qat_layer_mapping(RelPositionMultiHeadedAttention, QuantedRelPositionAttention)
        for item in attentions:
            config.add_layer_config(item.layer)
        QAT(config).quantize(self.network, inplace=True)
        placed = dict(self.network.named_sublayers())
        for item in attentions:
            operands = {
                operand: self._edge(f"{item.name}:{operand}", unsigned=operand == "weights")
                for operand in ATTENTION_OPERANDS
            }
            placed[item.name].quanters = AttentionQuanters(**operands)
            self._products += [
                ProductRange(
                    right_parameter=f"{item.name}.{parameter}.weight",
                    left=f"{item.name}:{left}",
                    right=f"{item.name}:{right}",
                )
                for parameter, left, right in _PRODUCTS
            ]

    def _check_counts(self, layers: int, attentions: int) -> None:
        """paddle.quantization skips what it does not know without a word; we do not."""
        types = [type(layer) for layer in self.network.sublayers()]
        placed = sum(t in (QuantedLinear, QuantedConv1D, QuantedConv2D) for t in types)
        products = types.count(QuantedRelPositionAttention)
        if (placed, products) != (layers, attentions):
            raise RuntimeError(
                f"quantized {placed} layers and {products} attentions, "
                f"expected {layers} and {attentions}"
            )


# Right-hand weight, left and right operand of the three products of relative-position attention.
_PRODUCTS = (
    ("linear_k", "query_content", "key"),
    ("linear_pos", "query_position", "position"),
    ("linear_v", "weights", "value"),
)
