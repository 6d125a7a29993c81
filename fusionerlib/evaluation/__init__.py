"""What is asked of a model, what is counted, and the figures that come of it."""
