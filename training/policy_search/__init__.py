"""Population based search for augmentation schedules (PBA)."""
