"""Hours of a cluster in minutes: the product's control plane and scheduler on a virtual clock."""
