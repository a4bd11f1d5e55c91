"""Which of ONNX Runtime's optimizers have nothing left to do in a graph that was optimized ahead.

They look for it all the same each time it is loaded, in as many passes over the graph. Names are
those of ONNX Runtime (orttraining aside: ``core/optimizer/graph_transformer_utils.cc``); one that a
release does not have is ignored by it.
"""

from __future__ import annotations

# In the metadata of a graph in which these have run: who ran them.
OPTIMIZED_KEY = "asrcompress.optimized"

# Not among them: memory layouts, which the machine at hand decides, int8 weights made wide for x86
# without VNNI, and whatever a later release adds.
DONE_AHEAD = (
    "Level1_RuleBasedTransformer",
    "DoubleQDQPairsRemover",
    "CommonSubexpressionElimination",
    "ConstantSharing",
    "ConstantFolding",
    "ConstantFoldingDQ",
    "MatMulAddFusion",
    "ReshapeFusion",
    "FreeDimensionOverrideTransformer",
    "GeluFusionL1",
    "GeluFusionL2",
    "QDQPropagationTransformer",
    "EnsureUniqueDQForNodeUnit",
    "WeightBiasQuantization",
    "Level2_RuleBasedTransformer",
    "QDQSelectorActionTransformer",
    "QDQFinalCleanupTransformer",
    "GemmActivationFusion",
    "MatMulIntegerToFloatFusion",
    "DynamicQuantizeMatMulFusion",
    "ConvActivationFusion",
    "AttentionFusion",
    "EmbedLayerNormFusion",
    "GatherSliceToSplitFusion",
    "GatherToSliceFusion",
    "MatmulTransposeFusion",
    "BiasGeluFusion",
    "GroupQueryAttentionFusion",
    "SkipLayerNormFusion",
    "FastGeluFusion",
    "QuickGeluFusion",
    "BiasSoftmaxFusion",
    "BiasDropoutFusion",
    "MatMulScaleFusion",
    "MatMulActivationFusion",
    "MatMulNBitsFusion",
)
