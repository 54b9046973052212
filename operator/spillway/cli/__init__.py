"""The `spillway` command line."""
