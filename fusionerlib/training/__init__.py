"""Training of a fusion module on frozen features: batch sources, steps, the loop, and resuming."""
