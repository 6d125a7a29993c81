"""Cost aggregation (the config ``modern``) and its generalisation to unseen classes."""
