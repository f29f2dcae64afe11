"""Recompute and test the claims of *Exact Feature Collisions in Neural Networks* (supplementary material)."""
