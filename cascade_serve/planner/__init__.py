"""From members with calibration logits to a plan: temperatures, Pareto search, certificates, report. Offline only."""
