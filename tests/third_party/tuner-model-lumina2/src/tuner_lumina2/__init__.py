"""The Lumina Image 2 family of tuner."""
