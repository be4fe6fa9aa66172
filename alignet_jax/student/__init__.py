"""Distillation of the aligned similarities into a vision model."""
