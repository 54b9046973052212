"""`make demo`: a burst of GPU demand comes and goes on a real control plane, and the real operator answers it."""
