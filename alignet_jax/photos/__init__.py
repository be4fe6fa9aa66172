"""Real photographs: folds of concepts, teachers, small students, scores."""
