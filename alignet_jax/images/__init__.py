"""Image collections: where pictures come from and how they are resized."""
