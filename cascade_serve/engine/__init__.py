"""Runs the members over the rows: slab, member queues, workers and gate behind one protocol."""
