"""Training of the fusion on frozen features: samples, batches, steps, and what a stopped run goes on from."""
