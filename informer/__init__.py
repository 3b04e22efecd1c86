"""informer."""
