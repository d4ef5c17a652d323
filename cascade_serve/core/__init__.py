"""The nouns and rules that planner (offline) and engine (online) share: no I/O, no clock, no threads."""
