"""Trained Paddle models to ONNX graphs and bundles, with proof that they agree."""
