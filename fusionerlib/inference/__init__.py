"""From an image and names to masks: once, by windows, drawn over the image, or looked into."""
