"""What the Prometheus adapter does with every kind of answer."""
