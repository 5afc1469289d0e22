"""A run, from configuration to export."""
