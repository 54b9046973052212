"""The clients of providers, against real answers."""
