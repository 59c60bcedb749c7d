"""How two bundles differ: what they say of themselves, their graphs and weights, and the numbers they make."""
