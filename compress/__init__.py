"""Quantization-aware training: Paddle models in, trained weights and learned ranges out."""
