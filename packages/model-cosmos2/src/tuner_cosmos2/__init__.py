"""The Cosmos Predict2 Text2Image family of tuner. `tuner_cosmos2.plugin` holds its hooks."""
