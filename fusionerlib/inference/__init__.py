"""Inference: from an image and names to masks, whole or by sliding windows; overlays; similarity and attention."""
