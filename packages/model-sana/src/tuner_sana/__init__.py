"""The Sana family of tuner. `tuner_sana.plugin` holds its hooks."""
