"""What the chart renders, and that it agrees with the operator it installs."""
