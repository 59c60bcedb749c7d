"""Commands of dsr-export on the machines of a Ray cluster."""
