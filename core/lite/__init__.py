"""Paddle Lite: converting, running and shipping, in a Python of its own."""
