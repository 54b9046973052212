"""A real control plane, Prometheus and GPU exporter on loopback, and the tests that need them."""
