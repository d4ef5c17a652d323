"""Makes the small models that a committee is built of."""
