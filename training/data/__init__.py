"""Data sets: where they come from, how they are split, and how they lie on a device."""
