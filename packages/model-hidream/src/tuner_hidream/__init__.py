"""The HiDream family of tuner. `tuner_hidream.plugin` holds its hooks."""
