"""The command line ``fusioner``."""
