"""What is measured on the way through a model: norms, their histograms, attention."""
