"""Export-friendly networks that load public state dicts."""
