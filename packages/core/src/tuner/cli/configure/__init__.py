"""The command `tuner configure`: questions in a terminal, answers in a file."""
