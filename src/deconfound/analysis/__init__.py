"""Explaining models: added with the causal methods."""
