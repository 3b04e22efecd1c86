"""Kubernetes' batch group: Jobs run Pods to their end, CronJobs make Jobs on a schedule."""
