"""Generated from protos/ by protos/generate.py, in a descriptor pool of their own; never edited by hand."""
