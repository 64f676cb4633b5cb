"""How a step is divided among ranks: ways for each operator, costs, the choice, the rewrite."""
