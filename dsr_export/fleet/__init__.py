"""Many builds as one: a matrix of models, precisions, targets and batches, a receipt for each, one summary."""
