"""The control plane (pure) and its gRPC shells, transfer and launch."""
