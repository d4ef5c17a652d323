"""Selection via proxy (SVP): which training images are worth their cost."""
