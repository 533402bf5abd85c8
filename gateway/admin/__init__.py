"""The admin plane: metrics, probes, a JSON API and a console, apart from the inference ports."""
