"""Publishing what a run made: the model card, and uploads to the hub."""
