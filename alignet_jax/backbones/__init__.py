"""Vision transformers, their public weight formats, and feature extraction."""
