"""The frozen half of a run: the pair of encoders, text embeddings, and the store of visual features."""
