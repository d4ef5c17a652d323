"""Augmentation of whole batches of uint8 images on the device that trains."""
