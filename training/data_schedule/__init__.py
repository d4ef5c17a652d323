"""Which images, of those selected, an epoch trains on."""
