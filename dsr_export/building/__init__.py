"""One build from its options to its bundle: what the stages are run by, and what is made of their results."""
