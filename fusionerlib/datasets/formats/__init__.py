"""How pictures, masks, lists of names and COCO files lie on disk."""
