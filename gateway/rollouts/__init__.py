"""Moving traffic from one version of a model to another, under statistical guard."""
