"""Any file a user gives -> weights, a graph, a yaml; nothing in it is trusted."""
