"""Volumes: what a claim asks for is found or made, kept while it is used, and given back."""
