"""INT8 builds: calibration data, the calibrated plan, and the budget that decides what stays in FP16."""
