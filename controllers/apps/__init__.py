"""Kubernetes' apps group: its kinds and their controllers."""
