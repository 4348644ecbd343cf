"""BS-Roformer and Mel-Band Roformer."""
