"""The ``cascade-train`` command."""
