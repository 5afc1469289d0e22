"""Extensions that the core ships: what a run reports, and where."""
