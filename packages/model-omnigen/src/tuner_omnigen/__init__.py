"""The OmniGen family of tuner. `tuner_omnigen.plugin` holds its hooks."""
