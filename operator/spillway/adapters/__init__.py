"""Talking to the outside: Kubernetes and Prometheus."""
