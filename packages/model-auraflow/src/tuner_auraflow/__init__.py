"""The AuraFlow family of tuner. `tuner_auraflow.plugin` holds its hooks."""
