"""The report's sections, one a module: from a run's contents to a section, or none where the run has nothing for it."""
