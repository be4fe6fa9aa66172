"""Clusters, triplets and their labels: the data that a student learns from."""
