"""Kubernetes' core group: its kinds and their controllers."""
