"""The proofs. They run under `pytest --tuner-family NAME`."""
