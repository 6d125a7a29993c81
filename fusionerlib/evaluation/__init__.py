"""Evaluation: which names are asked of which image, the model's predictions, and the metrics computed from them."""
