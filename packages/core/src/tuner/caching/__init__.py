"""Content-addressed caches of latents and conditionings."""
