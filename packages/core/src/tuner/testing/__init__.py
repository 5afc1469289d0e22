"""The conformance kit: proofs that every model family must pass."""
