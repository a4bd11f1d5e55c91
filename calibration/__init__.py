"""Activation ranges: the calibration pass and its observers."""
