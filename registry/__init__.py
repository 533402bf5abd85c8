"""Which model versions exist and where their bytes are. Knows nothing of serving."""
