"""Serve a committee of small models: an early-exit cascade or an ensemble, on the caller's own terms."""

__version__ = "0.1.0"
