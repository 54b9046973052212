"""The simulator, on small worlds made for one fact each."""
