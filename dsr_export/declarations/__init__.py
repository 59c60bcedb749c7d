"""What a user declares: DSR files, neuron tables, trainers' YAML, INT8 options. Needs no torch."""
