"""Pictures that show what the model has learnt."""
