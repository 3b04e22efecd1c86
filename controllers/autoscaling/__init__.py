"""HorizontalPodAutoscalers: as many pods as their load needs."""
