"""How human-like a model is, and what alignment cost: scores and the report."""
