"""The NewFamily family of tuner. `tuner_newfamily.plugin` holds its hooks."""
