"""What an engine will launch, with which types and how many bytes: read from its plan, without a GPU."""
