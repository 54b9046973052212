"""The Kubernetes adapter against recorded answers, on a clock that the tests move."""
