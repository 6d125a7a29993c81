"""The paper's grid of trainings: its jobs, their cost, and the call that makes them."""
