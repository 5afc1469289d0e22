"""Frozen weights in fewer bits: which schemes there are, and storing a model's linear layers by one of them."""
