"""Data sets: from folders of pictures to a plan of batches. Nothing here loads a model."""
