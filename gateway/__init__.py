"""Sluice, a model serving gateway: front ends, life cycle of models, workers, admin plane, command line."""

__version__ = "0.1.0"
