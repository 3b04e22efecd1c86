"""The policy group: budgets of disruption, the controller that keeps them, and evictions, which respect them."""
