"""The scheduler: filters and scores as small plug-ins, priorities, preemption."""
