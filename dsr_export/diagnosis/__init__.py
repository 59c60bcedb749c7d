"""`dsr-export diagnose`: where a model's outlier tokens are, what makes them, and what to do about them.

`neurons`, `norms`, `bins` and `thresholds` are numpy alone; `hooks` and the walks watch the PyTorch module.
Sources: arXiv 2605.05206 (outlier tokens of denoisers), arXiv 2506.08010 (register neurons of encoders).
"""
