"""The frozen half of a run: the pair of encoders, its words, and the store of its features."""
