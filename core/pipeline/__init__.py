"""What puts the stages together: evaluation, quantization, pruning, shipping."""
