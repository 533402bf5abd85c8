"""What a model version takes and gives, for native modules alone: see `kernels.deployment.Tensor`."""
