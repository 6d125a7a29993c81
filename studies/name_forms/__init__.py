"""What the way in which a name is written costs."""
