"""Many trainings compared: ablations, methods, and pairs of encoders."""
